"""Write the computed pages of the book into book/_generated: `python -m workflow.publish.pages --profile demo`."""

import argparse
import sys

from pkd_utils.runs import files, paths
from workflow.publish import gate, pages


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="demo", help="profile whose runs the book shows")
    profile = parser.parse_args().profile
    book = paths.PROJECT_ROOT / "book"
    for page in pages.write_all(profile, book):
        print(f"pages: no run of {page} in the profile {profile}; its page says so", file=sys.stderr)
    manifest = book / "_generated" / gate.MANIFEST
    shown = {entry["page"] for entry in files.read_json(manifest)} if manifest.exists() else set()
    listed = {name.removeprefix("book/_generated/") for name in pages.toc_files(book / "_generated" / pages.TOC)}
    for page in sorted(shown - listed):
        print(f"pages: {page} has run but is not in book/_toc.yml: add it there", file=sys.stderr)
    return 1 if shown - listed else 0


if __name__ == "__main__":
    sys.exit(main())

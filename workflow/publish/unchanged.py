"""Whether the built book is what would be built now: `python -m workflow.publish.unchanged demo`, exit code 0 if so.

A book is made of the profile's finished runs, of the repository's files and of the installed packages. After a build
`--write` notes their hash, and size and time of each file of the book, in `_build/book.json`.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from pkd_utils.runs import files, notebooks, paths

SOURCES = ("book", "pkd_utils", "workflow", "notebooks", "params", "benchmarks")
STAMP = paths.PROJECT_ROOT / "_build" / "book.json"


def sources(root: Path) -> Iterator[Path]:
    """The repository's files that a page may show, and the note of what is installed."""
    yield from sorted(file for file in root.glob("*.*") if file.is_file())
    yield from (file for file in (root / "Makefile", root / "LICENSE", root / ".venv" / ".installed") if file.exists())
    for folder in SOURCES:
        for file in sorted((root / folder).rglob("*")):
            if file.is_file() and not {"__pycache__", "_generated"} & set(file.relative_to(root).parts):
                yield file


def state(profile: str) -> dict[str, str] | None:
    """Hashes of what a book is made of and of what was built; None while a run of the profile is not done."""
    root, jobs = paths.PROJECT_ROOT, notebooks.plan(profile, left_out={})
    if any(job.state != "done" for job in jobs):
        return None
    made_of = hashlib.sha256(profile.encode())
    for file in [*(job.folder / name for job in jobs for name in ("run.json", "notebook.ipynb")), *sources(root)]:
        made_of.update(f"\n{file.relative_to(root) if file.is_relative_to(root) else file} ".encode())
        made_of.update(hashlib.sha256(file.read_bytes()).digest())
    built = hashlib.sha256()
    for file in sorted((root / "_build" / "html").rglob("*")):
        size = file.stat().st_size if file.is_file() else 0
        built.update(f"\n{file.relative_to(root)} {size} {file.stat().st_mtime_ns}".encode())
    return {"made_of": made_of.hexdigest(), "built": built.hexdigest()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workflow.publish.unchanged", description=__doc__.split("\n")[0])
    parser.add_argument("profile")
    parser.add_argument("--write", action="store_true", help="note what has just been built")
    given = parser.parse_args()
    now = state(given.profile)
    if given.write:
        files.write_json(STAMP, now)
        return 0
    same = now is not None and STAMP.exists() and files.read_json(STAMP) == now
    if same:
        print("pages: nothing has changed since the book was built (rm -r _build builds it anew)")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())

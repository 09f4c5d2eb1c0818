"""Remove images that no page of the built book shows any more: `python workflow/prune_images.py _build/html`.

Sphinx builds in place and leaves the pictures of earlier builds in `_images/`. They would be published with the book,
although no run vouches for them, and the gate refuses them.
"""

import sys
from pathlib import Path


def prune(html: Path) -> list[str]:
    """Delete unreferenced files of `_images/`; returns their names."""
    pages = "\n".join(page.read_text() for page in html.rglob("*.html"))
    stale = [file for file in sorted((html / "_images").glob("*")) if file.name not in pages]
    for file in stale:
        file.unlink()
    return [file.name for file in stale]


if __name__ == "__main__":
    removed = prune(Path(sys.argv[1]))
    if removed:
        print(f"removed {len(removed)} images of earlier builds")

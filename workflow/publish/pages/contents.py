"""The table of contents of a quick book: `book/_toc.yml`, each notebook's one run in place of the profile's many."""

from collections.abc import Set
from typing import Any

GENERATED = "book/_generated/"
ANNOUNCEMENT = (
    "A quick look: every notebook ran once, on simulated data or small samples, at the size of its tests. "
    "Its numbers mean nothing; make book makes those that do."
)


def quick(toc: dict[str, Any], shown: Set[str], linked: Set[str]) -> dict[str, Any]:
    """Contents with the pages of a quick book: a notebook where its first page stood, one that had none at the end.

    `shown` are pages of the runs, `mmpkd/03-distil-student`, each a notebook's. Of pages that prose links to, `linked`,
    those without a run stay, as pages that say so.
    """
    listed = {entry["file"].removeprefix(GENERATED) for part in toc["parts"] for entry in all_of(part["chapters"])}
    waiting = set(shown) - listed

    def kept(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = []
        for entry in entries:
            page = entry["file"].removeprefix(GENERATED)
            notebook = page.split(".")[0]
            if notebook in waiting:
                waiting.remove(notebook)
                found.append({"file": GENERATED + notebook})
            sections = kept(entry.get("sections", []))
            if page in shown | linked or "/" not in page or not entry["file"].startswith(GENERATED):
                found.append({name: value for name, value in {**entry, "sections": sections}.items() if value})
            else:
                found += sections
        return found

    parts = [{**part, "chapters": kept(part["chapters"])} for part in toc["parts"]]
    rest = [{"file": GENERATED + page} for page in sorted(waiting)]
    parts += [{"caption": "Other notebooks", "chapters": rest}]
    return {**toc, "parts": [part for part in parts if part["chapters"]]}


def all_of(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries and those below them."""
    return [one for entry in entries for one in (entry, *all_of(entry.get("sections", [])))]

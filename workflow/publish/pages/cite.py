"""The page "Cite this", from CITATION.cff."""

from typing import Any

AUTHORS = {"article": "article", "conference-paper": "inproceedings", "software": "misc"}


def names(work: dict[str, Any]) -> str:
    """The authors of a work, as BibTeX has them."""
    said = [a.get("name") or f"{a['family-names']}, {a['given-names']}" for a in work["authors"]]
    return " and ".join(f"{{{name}}}" if "," not in name else name for name in said)


def bibtex(work: dict[str, Any], year: int) -> str:
    """One BibTeX entry."""
    first = work["authors"][0]
    year = work.get("year", year)
    key = "".join(filter(str.isalnum, first.get("family-names", work["title"].split(":")[0]))).lower() + str(year)
    fields = {"title": f"{{{work['title']}}}", "author": names(work), "year": year}
    fields |= {"booktitle": work["collection-title"]} if "collection-title" in work else {}
    fields |= {"version": work["version"]} if "version" in work else {}
    fields |= {"url": work["repository-code"]} if "repository-code" in work else {}
    fields |= {"note": work["notes"]} if "notes" in work else {}
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@{AUTHORS[work['type']]}{{{key},\n{lines}\n}}"


def page(cited: dict[str, Any], year: int) -> str:
    """The page; `cited` is CITATION.cff, `year` that of this copy."""
    works = "\n\n".join(bibtex(work, year) for work in cited["references"])
    return (
        f"# Cite this\n\n{cited['message']}\n\n```bibtex\n{bibtex(cited, year)}\n```\n\n"
        f"## What it re-implements\n\n```bibtex\n{works}\n```\n\nThe same stands in `CITATION.cff`, which "
        "GitHub and Zenodo read."
    )

"""Write the worked examples, files that tests execute, into CONTRIBUTING.md: `python workflow/include_examples.py`."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
BLOCK = re.compile(r"(<!-- example: (\S+) -->\n)```python\n.*?```\n", re.S)


def included(text: str) -> str:
    """The page's text with the code below each `<!-- example: FILE -->` taken from that file."""
    return BLOCK.sub(lambda found: f"{found[1]}```python\n{(ROOT / found[2]).read_text()}```\n", text)


if __name__ == "__main__":
    PAGE.write_text(included(PAGE.read_text()))

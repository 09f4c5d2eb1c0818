"""What an executed notebook of a restricted cohort may hold: a short list of kinds, and nothing else.

Cells exactly as they are committed; parameters as `run.json` has them; lines of the project's own words and numbers;
tables as pandas writes them; figures that `run.show` found to hold no pixels; metadata of known keys and values.
"""

import ast
import hashlib
import io
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from bs4 import BeautifulSoup
from PIL import Image

from pkd_utils.runs import parameters, paths, showing
from workflow.publish import leaks
from workflow.publish.vocabulary import Vocabulary, own_shingles

TIME = r"[\d:.TZ+-]*"
KNOWN_METADATA = re.compile(
    r"kernelspec\.(?:display_name|language|name)=(?:Python 3(?: \(ipykernel\))?|python3?)"
    r"|language_info\.[\w.]+=(?:i?python3?|\.py|text/x-python|[\d.]+)"
    rf"|papermill\.(?:duration|start_time|end_time|version|status|exception)=(?:{TIME}|completed|None|False)"
    r"|papermill\.(?:input_path|output_path)=[^\s\"'<>]*\.ipynb"
    rf"|execution\.[\w.]+={TIME}|(?:collapsed|scrolled)=(?:True|False)|lines_to_next_cell=\d"
)
STYLE = re.compile("<style scoped>(.*?)</style>", re.S)
LEVELS = [pd.MultiIndex.from_tuples([("a", "b")], names=names) for names in ((None, None), ("a", "b"))]
TABLE_STYLES = {
    re.sub(r"\s+", "", STYLE.search(pd.DataFrame([[0]], rows, columns)._repr_html_())[1])
    for columns in (["a"], *LEVELS)
    for rows in ([0], pd.Index([0], name="a"), *LEVELS)
}
TABLE_TAG = re.compile(
    r"div|style scoped=|table border=1 class=dataframe|thead|tbody|tr(?: style=text-align: (?:right|left);)?|p|br"
    r"|t[hd](?: (?:colspan|rowspan)=\d+| (?:halign|valign)=\w{3,6})*"
)
FIGURE = re.compile(r"<Figure size [\d.]+x[\d.]+ with \d+ Axes>")
PICTURES = {"image/png": "PNG", "image/jpeg": "JPEG"}
COUNT = re.compile(
    rf"(?<![\d.,±\-])[1-9] (?:\w+ )?(?:{'|'.join(sorted(showing.COUNTED - {'rows', 'known', 'volumes', 'cases'}))})\b"
)


def digest(content: bytes) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(content).hexdigest()


class Checked:
    """The findings of one executed notebook, given its `run.json` and the secrets of the run and all that it read."""

    def __init__(self, notebook: Any, record: dict[str, Any], secrets: leaks.Secrets):
        self.record, self.secrets = record, secrets
        self.allowed = showing.permitted(record.get("cohort"))
        self.text, self.images = self.allowed["shareable_text"], self.allowed["shareable_images"]
        self.vocabulary = Vocabulary(record)
        self.figures = {one["sha256"] for one in record.get("figures", [])}
        self.found: list[str] = []
        self.at = "the notebook"
        for one in record.get("figures", []):
            self._texts("a figure's text", *one["texts"])
        self._metadata(notebook.metadata, {})
        source = nbformat.read(parameters.notebook_path(record["notebook"]), as_version=4).cells
        injected = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])][:1]
        shown = [cell for cell in notebook.cells if not any(cell is one for one in injected)]
        if len(shown) != len(source):
            self._say(f"holds {len(shown)} cells, and the committed notebook {len(source)}")
        expected = dict(zip(map(id, shown), source, strict=False))
        for number, cell in enumerate(notebook.cells, start=1):
            self.at = f"cell {number}"
            self._cell(cell, expected.get(id(cell)), any(cell is one for one in injected))

    def _say(self, what: str) -> None:
        self.found.append(f"{self.at} {what}")

    def _cell(self, cell: Any, source: Any, injected: bool) -> None:
        if injected:
            self._parameters(cell.source)
        elif source is None or (cell.source, cell.cell_type) != (source.source, source.cell_type):
            self._say("is not as the committed notebook has it")
        if not injected and source is not None and cell.get("id") != source.get("id"):
            self._say("has an id that the committed notebook does not have")
        if injected and not re.fullmatch("[0-9a-f]{8}|[0-9a-f-]{36}", cell.get("id", "")):
            self._say("has an id of its own")
        expected = {"tags": ["injected-parameters"]} if injected else getattr(source, "metadata", {})
        self._metadata(cell.metadata, expected)
        if cell.get("attachments"):
            self._say("holds an attachment")
        self._secrets("its source", cell.source)
        for output in cell.get("outputs", []):
            self._output(output)

    def _parameters(self, source: str) -> None:
        """Only declared names, with the values that `run.json` has."""
        given = self.record.get("parameters", {})
        declared = parameters.declared(self.record["notebook"])
        for node in ast.parse(source).body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)]) if name in declared:
                    if name in given and ast.literal_eval(node.value) != given[name]:
                        self._say(f"gives the parameter {name} another value than run.json")
                case _:
                    self._say("sets more than the declared parameters")
        if re.search("#(?! Parameters$)", source, re.M):
            self._say("has a comment")

    def _metadata(self, metadata: dict[str, Any], expected: dict[str, Any]) -> None:
        given = self.record.get("parameters", {})
        for path, value in flat(metadata):
            name, _, key = path.partition("papermill.parameters.")
            known = not name and key and key.split(".")[0] in given
            for root in (paths.runs_dir(), paths.PROJECT_ROOT):  # folders of this machine, with spaces in them or not
                value = value.removeprefix(str(root)) if path.endswith("put_path") else value
            if not known and (path, value) not in flat(expected) and not KNOWN_METADATA.fullmatch(f"{path}={value}"):
                self._say(f"has unknown metadata, or a known one with an unknown value ({len(path)} letters)")
            self._secrets("its metadata", f"{path} {value}")

    def _output(self, output: Any) -> None:
        if output.get("metadata"):
            self._say("has an output with metadata")
        if output.output_type == "stream":
            self._texts(f"its {output.name}", output.text)
            self._printed_counts(output.text)
        data = output.get("data", {})
        table = Table(data["text/html"]) if "text/html" in data else None
        for kind, value in data.items():
            if kind in PICTURES:
                self._picture(kind, b64decode(value))
            elif kind == "text/html":
                self._table(table)
            elif kind == "text/plain" and table is not None:
                if not set(tokens(value)) <= table.tokens(value):
                    self._say("has a text beside a table that does not say the same")
            elif kind == "text/plain":
                if not FIGURE.fullmatch(value):
                    self._texts("its result", value)
                    self._printed_counts(value)
            else:
                self._say(f"has output of type {kind}, which cannot be checked")

    def _texts(self, where: str, *texts: str) -> None:
        """Findings of what a cell prints or shows as words."""
        strange = sum(self.vocabulary.strange(text) for text in texts)
        if strange and not self.text:
            self._say(f"shows {strange} lines in {where} that are not of the project's own words and numbers")
        if any(leaks.encoded(text) for text in texts):
            self._say(f"shows what may be a picture in {where}")
        self._secrets(where, *texts)

    def _secrets(self, where: str, *texts: str) -> None:
        for text in texts:
            count = len(leaks.identifiers(text)) + len(leaks.BARE_DICOM_ID.findall(text)) + self.secrets.named(text)
            if count:
                self._say(f"shows {count} identifiers in {where}")
            if not self.text and self.secrets.repeated(text):
                self._say(f"repeats words of reports that its run has read, in {where}")

    def _printed_counts(self, text: str) -> None:
        if self.allowed["credentialed"] and COUNT.search(text):
            self._say(f"prints a count below {showing.SMALL} (run.count hides it)")

    def _table(self, table: "Table") -> None:
        if table.strange:
            self._say(f"shows HTML that is not a plain table of pandas ({', '.join(sorted(table.strange))})")
        self._texts("a table", *(text for _, text in table.units))
        if self.allowed["credentialed"] and table.small_counts():
            self._say(f"shows a table with counts below {showing.SMALL} (run.counts hides them)")

    def _picture(self, kind: str, content: bytes) -> None:
        if not self.images and digest(content) not in self.figures:
            self._say("shows an image that run.show did not mark as one without pixels of patients")
        with Image.open(io.BytesIO(content)) as image:
            texts = [f"{name} {value}" for name, value in image.info.items() if name not in PICTURE_FACTS]
        if any(not text.startswith("Software Matplotlib version") for text in texts) or image.format != PICTURES[kind]:
            self._say("shows an image with metadata of its own")


def findings(notebook: Any, record: dict[str, Any], folder: Path) -> list[str]:
    """What an executed notebook shows beyond the short list: a sentence each, with the cell and without the thing."""
    name = record.get("notebook", "")
    if not parameters.notebook_path(name).exists():
        return [f"the notebook {name} is not among the committed ones"]
    secrets = leaks.Secrets.of([folder], own_shingles(paths.PROJECT_ROOT))
    return list(dict.fromkeys(Checked(notebook, record, secrets).found))


PICTURE_FACTS = {"dpi", "jfif", "jfif_version", "jfif_unit", "jfif_density", "gamma", "srgb"}


def flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Nested metadata as (path, value) pairs."""
    if isinstance(value, dict):
        return [pair for key, one in value.items() for pair in flat(one, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list | tuple):
        return [pair for one in value for pair in flat(one, path)]
    return [(path, str(value))] if path else []


def tokens(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text)


class Table:
    """A table as pandas writes it: what is strange in its HTML, its texts, its counts."""

    def __init__(self, html: str):
        parsed = leaks.Units(html)
        self.strange = {tag for tag, given in parsed.tags if not TABLE_TAG.fullmatch(_tag(tag, given))}
        self.strange |= {"comment" for where, _ in parsed.found if where == "comment"}
        styles = [text for where, text in parsed.found if where == "style"]
        self.strange |= {"style" for text in styles if re.sub(r"\s+", "", text) not in TABLE_STYLES}
        self.units = [(where, text) for where, text in parsed.found if where != "style" and "@" not in where]
        self._html = html

    def tokens(self, beside: str) -> set[str]:
        """Words and numbers that the text beside the table may have: the table's, also cut short, and its shape's."""
        own = {token for _, text in self.units for token in tokens(text)} | {"rows", "x", "columns"}
        if not any(where == "td" for where, _ in self.units):
            own |= {"Empty", "DataFrame", "Columns", "Index"}
        cut = {token for token in re.findall(r"([^\W_]+)\.\.\.", beside) if any(one.startswith(token) for one in own)}
        return own | cut

    def small_counts(self) -> bool:
        """Whether a column named as a count has whole numbers from 1 to 9."""
        page = BeautifulSoup(self._html, "html.parser")
        rows = [[cell.get_text() for cell in row("td")] for row in page.select("tbody tr")]
        width = max(map(len, rows), default=0)
        heads = [
            [cell.get_text() for cell in row("th") for _ in range(int(cell.get("colspan", 1)))][-width:]
            for row in page.select("thead tr")
        ]
        for at, column in enumerate(zip(*(row for row in rows if len(row) == width), strict=True)):
            name = " ".join(head[at] for head in heads if len(head) == width)
            if showing.is_count(name) and any(re.fullmatch(r"[1-9](?:\.0+)?", value) for value in column):
                return True
        return False


def _tag(tag: str, given: dict[str, str]) -> str:
    return " ".join([tag, *(f"{name}={value}" for name, value in given.items())])

"""What must never be shown, planted where it could hide: in an executed notebook, a built site, a committed file.

A canary is a name, the facts of its cohort, its place, and a function that plants it into a `Stage`: a small project
whose clean state passes the gate. The identifiers and reports are made up.
"""

import base64
import functools
import io
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pkd_utils.runs import files, showing
from workflow.publish import committed, gate, site

PATIENT, STUDY = "10004242", "50004242"
IMAGE = "0a1b2c3d-11112222-33334444-55556666-77778888"
OTHER_PATIENT = "CASE-7F3K-22"  # of no known pattern: only the run's own tables tell
REPORTS = [
    "FINDINGS: Streaky bibasilar opacities are more conspicuous than before. IMPRESSION: Query aspiration.",
    "Lungs are clear bilaterally. Heart size normal.",
]
FAR = "Old healed fractures of the sixth and seventh ribs on the right."  # of a run two steps upstream
FOREIGN = "The patient was brought in by ambulance after a fall and complains of pain."  # in no table
SHORT = "Tiny apical pneumothorax persists."

NOTHING = {"title": "MIMIC-CXR-JPG 2.1.0", "licence": "PhysioNet", "simulated": False}
COHORTS = {
    "credentialed": {**NOTHING, "credentialed": True, "shareable_text": False, "shareable_images": False},
    "no text": {**NOTHING, "credentialed": False, "shareable_text": False, "shareable_images": True},
    "no images": {**NOTHING, "credentialed": False, "shareable_text": True, "shareable_images": False},
    "neither": {**NOTHING, "credentialed": False, "shareable_text": False, "shareable_images": False},
    "credentialed, wrongly open": {**NOTHING, "credentialed": True, "shareable_text": True, "shareable_images": True},
    "credentialed, wrongly simulated": {**NOTHING, "credentialed": True} | dict.fromkeys(showing.PERMISSIONS, True),
    "unsaid": {"title": "some data"},
}
NAME = "toy/02-show-results"
PARAMETERS = 'cohort: str = "x"  # name\nrun: str = "smoke"  # label\nseeds: list[int] = [0]  # seeds\n'
SOURCES = [
    'print(f"{len(images)} images of {patients} patients")',
    "table.round(3)",
    "run.show(figure)",
    'run.save({"scores.csv": scores})',
]


def picture(kind: str = "PNG", seed: int = 0, text: str = "", shape: tuple = (48, 48)) -> bytes:
    """Pixels that nobody marked, or with a `text` in their metadata."""
    pixels = Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8))
    out = io.BytesIO()
    extra = {}
    if text:
        extra["pnginfo"] = PngInfo()
        extra["pnginfo"].add_text("Comment", text)
    pixels.save(out, kind, **extra)
    return out.getvalue()


def coded(image: bytes) -> str:
    return base64.b64encode(image).decode()


FIGURE = picture(seed=7)
TABLE = pd.DataFrame({"AUROC": [0.81, 0.62]}, index=pd.Index(["Edema", "Pleural Effusion"], name="label"))


def html_table(*rows: str) -> str:
    """A table as pandas writes it, with further rows."""
    return TABLE._repr_html_().replace("</tbody>", "".join(f"<tr>{row}</tr>" for row in rows) + "</tbody>")


@dataclass
class Stage:
    """A clean project with three runs, one after another, the last shown in a book; `facts` are its cohort's."""

    root: Path
    facts: dict[str, Any]
    notebook: Any = None
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.source = self._source()
        path = self.root / "notebooks" / f"{NAME}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(self.source, path)
        (self.root / "CITATION.cff").write_text("title: a project\n")
        reports = pd.DataFrame({"study_id": [STUDY, "50004243"], "text": REPORTS}).set_index("study_id")
        ids = {"image_id": [IMAGE, "image-b"], "patient_id": [PATIENT, OTHER_PATIENT], "study_id": [STUDY, "50004243"]}
        far = pd.DataFrame({"study_id": ["50004244"], "text": [FAR]}).set_index("study_id")
        self._run("toy/x/00-fetch/smoke", {}, {"privileged.parquet": far})
        tables = {"images.parquet": pd.DataFrame(ids), "privileged.parquet": reports}
        self._run("toy/x/01-read-data/smoke", {"toy/x/00-fetch/smoke": "a"}, tables)
        upstream = {"toy/x/01-read-data/smoke": "b"}
        values = {"cohort": "x", "run": "smoke", "seeds": [0, 1]}
        figures = [{"sha256": gate.digest(FIGURE), "texts": ["AUROC"]}]
        more = {"notebook": NAME, "parameters": values, "figures": figures, "labels": ["Edema", "Pleural Effusion"]}
        self.folder = self._run("toy/x/02-show-results/smoke", upstream, {"scores.csv": TABLE}, **more)
        self.notebook, self.record = self._executed(), files.read_json(self.folder / "run.json")

    def _source(self) -> Any:
        cells = [new_markdown_cell("# Results\n\nThe AUROC of each label.")]
        cells += [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
        cells += [new_code_cell(source) for source in SOURCES]
        cells[4].metadata["mystnb"] = {"image": {"alt": "AUROC of each label."}}
        return new_notebook(cells=[*cells, new_markdown_cell("## Limits\n\nFew labels.")])

    def _executed(self) -> Any:
        notebook = nbformat.from_dict(self.source)
        injected = new_code_cell(
            '# Parameters\ncohort = "x"\nseeds = [0, 1]\n', metadata={"tags": ["injected-parameters"]}
        )
        notebook.cells.insert(2, injected)
        table = {"text/html": html_table(), "text/plain": TABLE.to_string()}
        figure = {"image/png": coded(FIGURE), "text/plain": "<Figure size 640x480 with 1 Axes>"}
        outputs = [[], [], [new_output("stream", name="stdout", text="368960 images of 65379 patients\n")]]
        outputs += [[new_output("execute_result", data=table, execution_count=2)]]
        outputs += [[new_output("display_data", data=figure)]]
        outputs += [[new_output("stream", name="stdout", text="wrote scores.csv\n")]]
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for count, (cell, output) in enumerate(zip(code, outputs, strict=True), start=1):
            cell.execution_count, cell.outputs = count, output
        notebook.metadata["papermill"] = {"parameters": {"cohort": "x", "seeds": [0, 1]}, "exception": None}
        notebook.metadata["papermill"]["input_path"] = str(self.root / "notebooks" / f"{NAME}.ipynb")
        notebook.metadata["papermill"]["output_path"] = str(self.root / "runs" / "smoke-0123456789.failed.ipynb")
        return notebook

    def _run(self, reference: str, upstream: dict, tables: dict[str, pd.DataFrame], **more: Any) -> Path:
        folder = self.root / "runs" / reference
        folder.mkdir(parents=True)
        for name, table in tables.items():
            table.to_parquet(folder / name) if name.endswith("parquet") else files.write(folder / name, table)
        facts = {n: {"bytes": (folder / n).stat().st_size, "sha256": files.file_sha256(folder / n)} for n in tables}
        record = {"reference": reference, "artefacts": facts, "cohort": self.facts, "upstream": upstream}
        files.write_json(folder / "run.json", {**record, "seconds": 3.2, "device": "2 cores", **more})
        return folder

    def cell(self, place: str) -> Any:
        """A cell of the executed notebook."""
        return self.notebook.cells[{"text": 0, "injected": 2, "print": 3, "table": 4, "figure": 5, "limits": 7}[place]]

    def prints(self, text: str, stream: str = "stdout") -> None:
        """A line more that a cell prints."""
        self.cell("print").outputs.append(new_output("stream", name=stream, text=f"{text}\n"))

    def shows(self, kind: str, value: Any) -> None:
        """An output more of the cell with the figure."""
        self.cell("figure").outputs.append(new_output("display_data", data={kind: value}))

    def tabled(self, html: str) -> None:
        """Other HTML for the table."""
        self.cell("table").outputs[0].data["text/html"] = html

    def says(self, cell: str, text: str) -> None:
        """A line more of a cell's source."""
        self.cell(cell).source += f"\n{text}"

    def injects(self, lines: str) -> None:
        """Other lines of parameters below the cohort."""
        self.cell("injected").source = f'# Parameters\ncohort = "x"\n{lines}\n'

    def notes(self, cell: str, text: str, *path: str) -> None:
        """A text under keys of the metadata of a cell or, for "", the notebook."""
        at = self.cell(cell).metadata if cell else self.notebook.metadata
        for key in path[:-1]:
            at = at.setdefault(key, {})
        at[path[-1]] = text

    def marks(self, image: bytes) -> None:
        """Another figure, which `run.show` has taken for one without pixels."""
        self.record["figures"].append({"sha256": gate.digest(image), "texts": []})
        self.cell("figure").outputs[0].data["image/png"] = coded(image)

    def findings(self) -> list[str]:
        """What the gate says of the executed notebook."""
        nbformat.write(self.notebook, self.folder / "notebook.ipynb")
        files.write_json(self.folder / "run.json", self.record)
        return gate.run_findings(self.folder)

    def build(self) -> Path:
        """A small built book that shows the run; what is planted into it comes later."""
        html, generated = self.root / "html", self.root / "book" / "_generated"
        (html / "book/_generated/toy").mkdir(parents=True)
        assert self.findings() == [] and gate.collect({NAME: self.folder}, generated) == []
        (html / "_images").mkdir()
        (html / "_images" / "auroc.png").write_bytes(FIGURE)
        (html / "_static").mkdir()
        (html / "index.html").write_text("<html><head></head><body><p>Results</p></body></html>")
        (html / "searchindex.js").write_text('Search.setIndex({"terms": {"auroc": 0}})')
        body = f'<p>The AUROC of each label.</p>{html_table()}<img alt="AUROC." src="../../../_images/auroc.png">'
        self.page.write_text(f"<html><head></head><body>{body}</body></html>")
        return html

    @property
    def page(self) -> Path:
        return self.root / "html" / "book/_generated" / f"{NAME}.html"

    def into(self, file: Path, text: str, head: bool = False) -> None:
        """More HTML at the end of a page's body, or of its head."""
        end = "</head>" if head else "</body>"
        file.write_text(file.read_text().replace(end, text + end))

    def put(self, name: str, content: bytes | str) -> None:
        """A file in the project."""
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(content.encode() if isinstance(content, str) else content)

    def look(self, place: str) -> list[str]:
        """What the gate says of a place."""
        return {"notebook": self.findings, "site": self.site_findings, "committed": self.committed_findings}[place]()

    def site_findings(self) -> list[str]:
        return site.site_findings(self.root / "html", self.root / "book" / "_generated")

    def committed_findings(self) -> list[str]:
        there = [name for name in ("notebooks", "book", "x") if (self.root / name).exists()]
        for words in (["init", "-q"], ["add", "-f", *there]):
            subprocess.run(["git", *words], cwd=self.root, check=True)
        return committed.committed_findings(self.root)


@dataclass(frozen=True)
class Canary:
    name: str
    cohort: str  # of COHORTS
    place: str  # notebook, site or committed
    plant: Callable[[Stage], Any]
    secret: str = ""  # no finding may repeat it


IDENTIFIERS = {
    "patient": PATIENT,
    "patient as float": f"{PATIENT}.0",
    "patient with commas": "10,004,242",
    "patient with spaces": "10 004 242",
    "patient with underscores": "10_004_242",
    "patient's folder": f"p10/p{PATIENT}",
    "study's file": f"s{STUDY}.txt",
    "patient in an array": f"['{PATIENT}', 0.3]",
    "image": IMAGE,
    "image in capitals": IMAGE.upper(),
    "image without dashes": IMAGE.replace("-", ""),
    "volume of INSPECT": "PE" + "1234abc",
    "patient of no pattern": OTHER_PATIENT,
    "patient in full-width digits": "".join(chr(ord(c) + 0xFEE0) for c in PATIENT),
}
SENTENCES = {
    "own report": "Streaky bibasilar opacities are more conspicuous than before",
    "report far upstream": "old healed fractures of the sixth and seventh ribs",
    "report of elsewhere": FOREIGN,
    "short sentence": SHORT,
}
BASE64 = f"data:image/png;base64,{coded(picture())}"
SVG = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{BASE64}"/></svg>'
COLOURED = "".join(f'<td style="background-color: rgb({i},{i},{i})"></td>' for i in range(40))
EMBEDDED = f'<img alt="x" src="{BASE64}">'
RECTANGLES = '<svg><rect width="1" height="1" fill="#123456"/></svg>'


def undeclared(stage: Stage, text: str) -> None:
    stage.injects(f'seeds = [0, 1]\nonly = "{text}"')
    stage.record["parameters"]["only"] = text


def attached(stage: Stage) -> None:
    stage.cell("text").attachments = {"x.png": {"image/png": coded(picture())}}
    stage.says("text", "![x](attachment:x.png)")


NOTEBOOK_PLACES: dict[str, Callable[[Stage, str], Any]] = {
    "stdout": lambda s, text: s.prints(text),
    "stderr": lambda s, text: s.prints(text, "stderr"),
    "printed among ours": lambda s, text: s.prints(f"12 images of {text} patients"),
    "table cell": lambda s, text: s.tabled(html_table(f"<th>Edema</th><td>{text}</td>")),
    "table header": lambda s, text: s.tabled(html_table().replace("AUROC", text)),
    "text of a table": lambda s, text: s.cell("table").outputs[0].data.update({"text/plain": text}),
    "text result": lambda s, text: s.shows("text/plain", text),
    "markdown output": lambda s, text: s.shows("text/markdown", text),
    "latex output": lambda s, text: s.shows("text/latex", text),
    "JSON output": lambda s, text: s.shows("application/json", {"a": text}),
    "script output": lambda s, text: s.shows("application/javascript", f"alert('{text}')"),
    "title attribute": lambda s, text: s.tabled(html_table().replace("<th>Edema", f'<th title="{text}">Edema')),
    "href attribute": lambda s, text: s.tabled(html_table(f'<td><a href="{text}">0.1</a></td>')),
    "alt attribute": lambda s, text: s.tabled(html_table(f'<td><img alt="{text}"></td>')),
    "data attribute": lambda s, text: s.tabled(html_table().replace("<table", f'<table data-x="{text}"')),
    "class attribute": lambda s, text: s.tabled(html_table().replace("dataframe", f"dataframe {text}")),
    "HTML comment": lambda s, text: s.tabled(html_table() + f"<!-- {text} -->"),
    "style": lambda s, text: s.tabled(html_table() + f'<style>p::after {{content: "{text}"}}</style>'),
    "script": lambda s, text: s.tabled(html_table() + f"<script>var x = '{text}'</script>"),
    "split by tags": lambda s, text: s.tabled(html_table(f"<td><b>{text[:4]}</b>{text[4:]}</td>")),
    "markdown cell": lambda s, text: s.says("text", text),
    "last markdown cell": lambda s, text: s.says("limits", text),
    "added markdown cell": lambda s, text: s.notebook.cells.append(new_markdown_cell(text)),
    "raw cell": lambda s, text: s.notebook.cells.append(new_raw_cell(text)),
    "added code cell": lambda s, text: s.notebook.cells.append(new_code_cell(f"# {text}", execution_count=7)),
    "code comment": lambda s, text: s.says("print", f"# {text}"),
    "code string": lambda s, text: s.says("table", f"x = '{text}'"),
    "alt text": lambda s, text: s.notes("figure", text, "mystnb", "image", "alt"),
    "caption": lambda s, text: s.notes("figure", text, "mystnb", "figure", "caption"),
    "cell metadata": lambda s, text: s.notes("table", text, "note"),
    "papermill's cell metadata": lambda s, text: s.notes("table", text, "papermill", "exception"),
    "notebook metadata": lambda s, text: s.notes("", text, "title"),
    "kernel's name": lambda s, text: s.notes("", text, "kernelspec", "display_name"),
    "papermill's metadata": lambda s, text: s.notes("", text, "papermill", "input_path"),
    "widget state": lambda s, text: s.notes("", text, "widgets", "state"),
    "tag": lambda s, text: s.cell("table").metadata.setdefault("tags", []).append(text),
    "output metadata": lambda s, text: s.cell("table").outputs[0].metadata.update(caption=text),
    "injected parameter": lambda s, text: s.injects(f'seeds = ["{text}"]'),
    "undeclared parameter": undeclared,
    "figure's text": lambda s, text: s.record["figures"][0]["texts"].append(text),
    "cell id": lambda s, text: s.cell("table").update(id=text.replace(" ", "-")[:60]),
}
NOTEBOOK_PIXELS: dict[str, Callable[[Stage], Any]] = {
    "unmarked PNG": lambda s: s.shows("image/png", coded(picture())),
    "PNG behind the marked one": lambda s: s.shows("image/png", coded(FIGURE + picture())),
    "JPEG": lambda s: s.shows("image/jpeg", coded(picture("JPEG"))),
    "WebP": lambda s: s.shows("image/webp", coded(picture("WEBP"))),
    "BMP": lambda s: s.shows("image/bmp", coded(picture("BMP"))),
    "SVG with pixels": lambda s: s.shows("image/svg+xml", SVG),
    "SVG of rectangles": lambda s: s.shows("image/svg+xml", RECTANGLES),
    "coloured table": lambda s: s.tabled(html_table(COLOURED)),
    "table coloured by a style": lambda s: s.tabled(html_table() + "<style>#a {background: #123}</style>"),
    "base64 in HTML": lambda s: s.tabled(html_table() + EMBEDDED),
    "SVG in HTML": lambda s: s.tabled(html_table() + RECTANGLES),
    "base64 in a style": lambda s: s.tabled(f"<div style=\"background:url('{BASE64}')\"></div>"),
    "base64 in a printed line": lambda s: s.prints(coded(picture())),
    "base64 in short lines": lambda s: s.prints("\n".join(coded(picture())[i : i + 76] for i in range(0, 2000, 76))),
    "base64 in a markdown output": lambda s: s.shows("text/markdown", f"![x]({BASE64})"),
    "base64 in a markdown cell": lambda s: s.says("text", f"![x]({BASE64})"),
    "attachment": attached,
    "pixels as numbers": lambda s: s.prints(str(np.arange(2304).reshape(48, 48).tolist())),
    "pixels as hexadecimal": lambda s: s.prints(picture().hex()),
    "pixels as shades": lambda s: s.prints("\n".join("█▓▒░ " * 12 for _ in range(30))),
    "widget": lambda s: s.shows("application/vnd.jupyter.widget-view+json", {"model_id": "a"}),
}


def counted(column: str) -> Callable[[Stage], Any]:
    rows = pd.Index(["Edema", "Pleural Effusion"], name="label")
    return lambda s: s.tabled(pd.DataFrame({column: [4, 120]}, index=rows)._repr_html_())


SMALL = {name: counted(name) for name in ("patients", "images", "studies", "positive", "rows")}
SMALL["a printed count"] = lambda s: s.prints("7 images of 65379 patients")
SMALL["a printed count of patients"] = lambda s: s.prints("368960 images of 3 patients")

SITE_PLACES: dict[str, Callable[[Stage, str], Any]] = {
    "notebook's page": lambda s, text: s.into(s.page, f"<p>{text}</p>"),
    "other page": lambda s, text: s.into(s.root / "html/index.html", f"<p>{text}</p>"),
    "title": lambda s, text: s.into(s.page, f"<title>{text}</title>", True),
    "description": lambda s, text: s.into(s.page, f'<meta name="description" content="{text}">', True),
    "alt": lambda s, text: s.into(s.page, f'<img alt="{text}" src="../../../_images/auroc.png">'),
    "title attribute": lambda s, text: s.into(s.page, f'<span title="{text}">x</span>'),
    "href": lambda s, text: s.into(s.page, f'<a href="{text}">x</a>'),
    "data attribute": lambda s, text: s.into(s.page, f'<p data-x="{text}">x</p>'),
    "comment": lambda s, text: s.into(s.page, f"<!-- {text} -->"),
    "style": lambda s, text: s.into(s.page, f'<style>p {{content: "{text}"}}</style>'),
    "script": lambda s, text: s.into(s.page, f'<script>x = "{text}"</script>'),
    "search index": lambda s, text: s.put("html/searchindex.js", f'Search.setIndex({{"titles": "{text}"}})'),
    "text file": lambda s, text: s.put("html/robots.txt", text),
    "JSON": lambda s, text: s.put("html/data.json", f'{{"a": "{text}"}}'),
    "static file": lambda s, text: s.put("html/_static/extra.js", f"// {text}"),
    "static page": lambda s, text: s.put("html/_static/webpack-macros.html", f"<p>{text}</p>"),
    "inventory": lambda s, text: s.put("html/objects.inv", b"# Sphinx inventory\n" + zlib.compress(text.encode())),
    "Latin-1 page": lambda s, text: s.put("html/old.html", f"<p>caf\u00e9 {text}</p>".encode("latin-1", "replace")),
    "UTF-16 page": lambda s, text: s.put("html/wide.html", f"<p>{text}</p>".encode("utf-16")),
    "download": lambda s, text: s.put("html/_downloads/a/notes.txt", text),
    "sources": lambda s, text: s.put("html/_sources/index.md", text),
    "file without suffix": lambda s, text: s.put("html/notes", text),
    "table beside the pages": lambda s, text: s.put("html/_static/rows.csv", text),
    "hidden file": lambda s, text: s.put("html/.cache.txt", text),
    "entities": lambda s, text: s.into(s.page, "<p>" + "".join(f"&#{ord(c)};" for c in text) + "</p>"),
    "split by tags": lambda s, text: s.into(s.page, f"<p><b>{text[:4]}</b><i>{text[4:]}</i></p>"),
}
SITE_PIXELS: dict[str, Callable[[Stage], Any]] = {
    "film in _images": lambda s: s.put("html/_images/film.png", picture()),
    "WebP in _images": lambda s: s.put("html/_images/film.webp", picture("WEBP")),
    "known name, other pixels": lambda s: s.put("html/_images/auroc.png", picture()),
    "film in _static": lambda s: s.put("html/_static/film.png", picture()),
    "JPEG in _static": lambda s: s.put("html/_static/logo.jpg", picture("JPEG")),
    "BMP beside the pages": lambda s: s.put("html/book/film.bmp", picture("BMP")),
    "film under a style's name": lambda s: s.put("html/_static/book.css", picture()),
    "SVG in _static": lambda s: s.put("html/_static/film.svg", SVG),
    "base64 in a page": lambda s: s.into(s.page, EMBEDDED),
    "base64 in another page": lambda s: s.into(s.root / "html/index.html", EMBEDDED),
    "base64 in a style": lambda s: s.put("html/_static/book.css", f"p {{background: url({BASE64})}}"),
    "base64 in a script": lambda s: s.put("html/_static/x.js", f'x = "{coded(picture())}"'),
    "base64 in the search index": lambda s: s.put("html/searchindex.js", f'Search.setIndex("{coded(picture())}")'),
    "coloured table": lambda s: s.into(s.page, f"<table><tr>{COLOURED}</tr></table>"),
    "coloured table elsewhere": lambda s: s.into(s.root / "html/index.html", f"<table><tr>{COLOURED}</tr></table>"),
    "SVG in a page": lambda s: s.into(s.page, SVG),
    "frame": lambda s: s.into(s.page, "<iframe srcdoc='&lt;p&gt;x&lt;/p&gt;'></iframe>"),
}
RESULTS = "book/results/x.json"
COMMITTED: dict[str, Callable[[Stage], Any]] = {
    "patient in results": lambda s: s.put(RESULTS, f'{{"rows": [{{"a": {PATIENT}}}]}}'),
    "patient as float in results": lambda s: s.put(RESULTS, f'{{"rows": [{{"a": {PATIENT}.0}}]}}'),
    "patient with commas in results": lambda s: s.put(RESULTS, '{"text": "10,004,242"}'),
    "image without dashes in results": lambda s: s.put(RESULTS, f'{{"text": "{IMAGE.replace("-", "")}"}}'),
    "column of patients": lambda s: s.put("book/results/x.csv", "patient_id,auroc\na,0.5\n"),
    "report in results": lambda s: s.put(RESULTS, f'{{"text": "{SHORT}"}}'),
    "report in a table": lambda s: s.put("book/results/x.csv", f'label,note\nEdema,"{FOREIGN}"\n'),
    "report in a note": lambda s: s.put(RESULTS, '{"notes": ["Lungs are clear bilaterally. Heart size normal."]}'),
    "base64 in results": lambda s: s.put(RESULTS, f'{{"x": "{coded(picture())}"}}'),
    "pixels in results": lambda s: s.put(RESULTS, f'{{"x": {np.arange(2304).reshape(48, 48).tolist()}}}'),
    "coloured table in results": lambda s: s.put(RESULTS, '{"x": "<td style=\\"background-color: #222\\"></td>"}'),
    "small count in results": lambda s: s.put(RESULTS, '{"rows": [{"images": 4}], "cohort": {"credentialed": true}}'),
    "small count in a table": lambda s: (
        s.put(RESULTS, '{"cohort": {"credentialed": true}}'),
        s.put("book/results/x.csv", "label,patients\nEdema,4.0\n"),
    ),
    "film in results": lambda s: s.put("book/results/film.png", picture()),
    "film in a page's folder": lambda s: s.put("book/film.png", picture()),
    "WebP": lambda s: s.put("x/film.webp", picture("WEBP")),
    "BMP": lambda s: s.put("x/film.bmp", picture("BMP")),
    "film without suffix": lambda s: s.put("x/film", picture()),
    "film named as text": lambda s: s.put("x/film.md", picture()),
    "SVG with pixels": lambda s: s.put("book/_static/x.svg", SVG),
    "base64 in markdown": lambda s: s.put("x/a.md", f"![x]({BASE64})"),
    "base64 in a style": lambda s: s.put("book/_static/a.css", f"p{{background:url({BASE64})}}"),
    "Latin-1 notes": lambda s: s.put("x/a.txt", f"caf\u00e9 p{PATIENT}".encode("latin-1")),
    "UTF-16 table": lambda s: s.put("x/a.csv", f"subject\n{PATIENT}\n".encode("utf-16")),
    "list of studies": lambda s: s.put("x/list.csv", f"study\n{STUDY}\n"),
    "list of studies as text": lambda s: s.put("x/list.txt", f"{STUDY}\n"),
    "parameters with a patient": lambda s: s.put("x/a.yml", f"only: '{PATIENT}'\n"),
    "image without dashes": lambda s: s.put("x/a.md", IMAGE.replace("-", "")),
    "notebook that says simulated": lambda s: s.put(
        "notebooks/toy/a.ipynb",
        '{"cells": [], "metadata": {"a": "' + IMAGE + ' simulated"}, "nbformat": 4, "nbformat_minor": 5}',
    ),
    "spreadsheet": lambda s: s.put("x/rows.xlsx", b"PK\x03\x04"),
    "archive": lambda s: s.put("x/rows.7z", b"7z"),
}


def canaries() -> list[Canary]:
    """All of them, the same order every time."""
    found: dict[str, Canary] = {}

    def add(name: str, cohort: str, place: str, plant: Callable, text: str = "", secret: str = "") -> None:
        name = f"{place}: {name} ({cohort})"
        found[name] = Canary(name, cohort, place, functools.partial(plant, text=text) if text else plant, secret)

    for name, text in IDENTIFIERS.items():
        for where in ("stdout", "table cell"):
            add(f"{name} in {where}", "credentialed", "notebook", NOTEBOOK_PLACES[where], text, text)
        add(f"{name} in notebook's page", "credentialed", "site", SITE_PLACES["notebook's page"], text, text)
    for name, text in SENTENCES.items():
        for where in ("stdout", "table cell", "markdown cell"):
            add(f"{name} in {where}", "credentialed", "notebook", NOTEBOOK_PLACES[where], text, text)
        for where in ("notebook's page", "other page"):
            add(f"{name} in {where}", "credentialed", "site", SITE_PLACES[where], text, text)
    own = SENTENCES["own report"]
    for place, planters in (("notebook", NOTEBOOK_PLACES), ("site", SITE_PLACES)):
        for where, planter in planters.items():
            add(f"patient in {where}", "credentialed", place, planter, PATIENT, PATIENT)
            add(f"report in {where}", "no text", place, planter, own, own)
    for place, planters in (("notebook", NOTEBOOK_PIXELS), ("site", SITE_PIXELS)):
        for name, plant in planters.items():
            add(name, "no images", place, plant)
    for name, plant in COMMITTED.items():
        add(name, "credentialed", "committed", plant)
    for name, plant in SMALL.items():
        add(f"small count, {name}", "credentialed", "notebook", plant)
    named = picture(text=PATIENT)
    marked = "patient in a marked figure's PNG text"
    add(marked, "credentialed", "notebook", lambda s: s.marks(named), secret=PATIENT)
    for cohort in COHORTS:
        if cohort != "no images":
            add("own report printed", cohort, "notebook", NOTEBOOK_PLACES["stdout"], own)
        if cohort != "no text":
            add("unmarked PNG", cohort, "notebook", NOTEBOOK_PIXELS["unmarked PNG"])
        add("patient printed", cohort, "notebook", NOTEBOOK_PLACES["stdout"], PATIENT)
    return list(found.values())

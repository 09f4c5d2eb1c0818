"""Parsers under hypothesis: a right value or one sentence of ours, never another exception and never a hang."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from pkd_utils.cohorts.boxes import read_coco
from pkd_utils.cohorts.checks import read_csv
from pkd_utils.cohorts.openi import ARCHIVE, read_reports
from pkd_utils.cohorts.report_sections import report_text
from pkd_utils.encoders.weights import read_weights
from pkd_utils.images import dicom
from pkd_utils.runs import strict_yaml
from pkd_utils.runs.errors import DataError
from tests.cohorts.cbis_fixtures import write_dicom
from tests.cohorts.fixtures import openi_report, write_openi

FEW = settings(
    max_examples=60,
    derandomize=True,  # the same examples everywhere, and nothing kept between runs
    database=None,
    deadline=2000,  # ms an example: what takes longer hangs
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
PLAIN = st.text(st.characters(codec="utf-8"), max_size=40)


def read_or_refused(read, *arguments):
    """What a parser returns, or None where it refuses in one sentence."""
    try:
        return read(*arguments)
    except DataError as error:
        assert "\n" not in str(error), error
        return None


def damaged(whole: bytes):
    """Strategies for what damages a file: bytes changed, taken out or put in, up to its end."""
    place, piece = st.integers(0, len(whole)), st.binary(max_size=6)
    edit = st.tuples(place, st.integers(0, 6), piece)

    def apply(edits):
        content = whole
        for start, gone, new in edits:
            content = content[:start] + new + content[start + gone :]
        return content

    cut = place.map(lambda end: whole[:end])
    return st.one_of(st.lists(edit, min_size=1, max_size=4).map(apply), cut, st.binary(max_size=300))


HEADERS = ["FINDINGS:", "IMPRESSION:", "INDICATION:", "A:", "CHEST, TWO VIEWS:", "WET READ:", "FINAL REPORT", "XYZ"]
PIECES = st.sampled_from([*HEADERS, "_____", "\n", "\n\n", " ", "\r\n", "\0", ":", "clear.", "A ", "(", "é"])


@FEW
@given(st.one_of(st.text(), st.lists(PIECES, max_size=60).map("".join)), st.integers(1, 400))
@example("A" * 50_000, 1)
@example("\nA ", 20_000)
def test_reports_of_any_text_give_text(report, times):
    text, origin = report_text(report * times)
    assert isinstance(text, str) and bool(text) == bool(origin)
    assert set(text) <= {*report, *" \n:"}


@FEW
@given(st.lists(PLAIN.filter(str.strip), min_size=1, max_size=3))
def test_what_stands_under_a_header_is_found_again(lines):
    body = " ".join(" ".join(lines).replace(":", "").split()).lower()
    if "_____" not in body:
        assert report_text(f"FINDINGS: {body}\n", ("findings",)) == (body, "findings" if body else "")


@FEW
@given(damaged(openi_report(1, "Made up.", "b", ["normal"]).encode()))
def test_damaged_xml(tmp_path, content):
    write_openi(tmp_path, {"ecgen-radiology/1.xml": content})
    table = read_or_refused(read_reports, tmp_path / ARCHIVE)
    assert table is None or len(table) == 1


NAMES = st.lists(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=6), min_size=1)
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)


@FEW
@given(st.data(), st.sampled_from([(".csv", ","), (".tsv", "\t")]))
def test_tables_are_read_as_they_were_written(tmp_path, data, kind):
    suffix, separator = kind
    names = data.draw(NAMES.filter(lambda found: len(set(found)) == len(found)).map(lambda found: ["id", *found]))
    rows = data.draw(st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)), max_size=6))
    rows = [[f"row {number}", *row[1:]] for number, row in enumerate(rows)]
    with open(tmp_path / f"t{suffix}", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL).writerows([names, *rows])
    table = read_csv(tmp_path / f"t{suffix}", names, "nowhere")
    assert list(table.columns) == names and table.fillna("").to_numpy().tolist() == rows


TABLE = b'id,text,number\n1,"a, ""b""\nc",2\n2,,3.5\n3,"d",\n'


@FEW
@given(damaged(TABLE), st.sampled_from([".csv", ".tsv"]))
@example(b'id,text\n1,"' + b"x" * 200_000, ".csv")
def test_damaged_tables(tmp_path, content, suffix):
    (tmp_path / f"t{suffix}").write_bytes(content)
    table = read_or_refused(read_csv, tmp_path / f"t{suffix}", ["id"], "nowhere")
    assert table is None or (isinstance(table, pd.DataFrame) and "id" in table)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**6), 10**6), st.floats(allow_nan=False), PLAIN),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(PLAIN, inner, max_size=3)),
    max_leaves=8,
)


@FEW
@given(VALUES)
def test_yaml_is_read_as_it_was_meant_or_refused(tmp_path, value):
    (tmp_path / "p.yml").write_text(yaml.safe_dump({"name": value}), encoding="utf-8")
    found = read_or_refused(strict_yaml.read, tmp_path / "p.yml")
    assert found is None or found == {"name": value}


SIGNS = "[]{}:,-?&*!|>%@`#'\" \n\t"
SCRAPS = st.sampled_from([*SIGNS, "a", "a: ", "- ", "\n  ", "1", "!!python/object:os.system", "---"])


@FEW
@given(st.one_of(st.lists(SCRAPS, max_size=40).map("".join).map(str.encode), st.binary(max_size=80)))
@example(b"[" * 20_000)
@example(b"a: " * 5_000)
@example(b"".join(b"%s: &%s [%s]\n" % (b"abcdef"[k : k + 1], b"abcdef"[k : k + 1], b"*a," * 9) for k in range(6)))
@example(b"a: 2026-11-29\nb: 2026-13-45\n")
def test_yaml_of_scraps(tmp_path, content):
    (tmp_path / "p.yml").write_bytes(content)
    read_or_refused(strict_yaml.read, tmp_path / "p.yml")


def checkpoint(suffix: str) -> bytes:
    state = {"norm.weight": torch.arange(6.0), "head.bias": torch.zeros(2, dtype=torch.int64)}
    if suffix == ".safetensors":
        return save(state)
    content = io.BytesIO()
    torch.save(state, content, _use_new_zipfile_serialization=suffix == ".pth")
    return content.getvalue()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_damaged_checkpoints(tmp_path, suffix):
    whole = checkpoint(suffix)

    @FEW
    @given(damaged(whole))
    def read(content):
        (tmp_path / f"w{suffix}").write_bytes(content)
        weights = read_or_refused(read_weights, tmp_path / f"w{suffix}")
        assert weights is None or all(isinstance(tensor, torch.Tensor) for tensor in weights.state.values())

    read()


@pytest.mark.filterwarnings("ignore")
def test_damaged_dicom_headers(tmp_path):
    elements = {"RescaleSlope": "2", "RescaleIntercept": "-1", "PixelPaddingValue": 0}
    whole = write_dicom(tmp_path / "p.dcm", np.arange(20, dtype=np.uint16).reshape(4, 5), 12, **elements).read_bytes()

    @FEW
    @given(damaged(whole[128:]))
    def read(content):
        content = bytes(128) + content
        if dicom.is_dicom(content):
            header = read_or_refused(dicom.read_header, content)
            grey = read_or_refused(dicom.read_grey, content)
            assert grey is None or header is None or grey.shape == (header.height, header.width)

    read()


def coco() -> dict:
    return {
        "images": [{"id": 0, "file_name": "a.png", "width": 8, "height": 6}],
        "categories": [{"id": 1, "name": "lung"}],
        "annotations": [{"id": 2, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4]}],
    }


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), PLAIN),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(PLAIN, inner, max_size=2)),
    max_leaves=5,
)
KEYS = [(place, key) for place, (entry,) in coco().items() for key in entry]


@FEW
@given(st.sampled_from(KEYS), JSON)
@example(("annotations", "bbox"), [10**400, 0, 1, 1])
@example(("images", "width"), 10**400)
def test_boxes_of_any_values(tmp_path, place, value):
    content = coco()
    content[place[0]][0][place[1]] = value
    (tmp_path / "c.json").write_text(json.dumps(content), encoding="utf-8")
    boxes = read_or_refused(read_coco, tmp_path / "c.json", "nowhere")
    if boxes is not None:
        assert boxes[["x", "y", "width", "height"]].dtypes.eq("float64").all()
        if place == ("annotations", "bbox"):
            found = boxes.loc[0, ["x", "y", "width", "height"]].to_numpy(float)
            np.testing.assert_array_equal(found, [float(number) for number in value])


@FEW
@given(damaged(json.dumps(coco()).encode()))
def test_damaged_box_files(tmp_path, content):
    (tmp_path / "c.json").write_bytes(content)
    read_or_refused(read_coco, tmp_path / "c.json", "nowhere")

"""The page "The encoders": tables agree with the paper and the code, commands and arguments exist."""

import inspect
import re

import pytest

from pkd_utils.encoders import IMAGE_ENCODERS, TEXT_ENCODERS, load_image_encoder
from pkd_utils.runs import assets, files, paths
from workflow.publish.pages import encoders, markdown

PAGE = (paths.PROJECT_ROOT / "book" / "reports" / "the-encoders.md").read_text()

# Bergström et al., Table 1 (image SSL, text: "+" aligned) and Table 8 (MIMIC, CheXpert, NIH, other), read by hand.
TABLES_1_AND_8 = {
    "RAD-DINO": ("✓", "✗", "✓✓✓✓"),
    "C2L": ("✓", "✗", "✓✓✓✓"),
    "Medical MAE": ("✓", "✗", "✓✓✓✗"),
    "MRM": ("✓", "✓", "✓✗✗✗"),
    "BioViL-T": ("✗", "✓+", "✓✗✗✗"),
    "GLoRIA": ("✗", "✓+", "✗✓✗✗"),
    "BiomedCLIP": ("✗", "✓+", "✗✗✗✓"),
}


@pytest.fixture(scope="module")
def fragments(tmp_path_factory):
    return encoders.fragments(tmp_path_factory.mktemp("results"))


def test_pretraining_is_tables_1_and_8_in_words():
    table = encoders.pretraining_table().set_index("encoder")
    word = {"✓": "yes", "✗": "no", "✓+": "yes, aligned"}
    assert set(table.index) == set(TABLES_1_AND_8)
    for title, (images, text, seen) in TABLES_1_AND_8.items():
        row = table.loc[title]
        assert (row["image self-supervision"], row["reports or captions"]) == (word[images], word[text]), title
        assert [row[name] for name in ("MIMIC-CXR", "CheXpert", "NIH", "other")] == [word[tick] for tick in seen], title


def test_every_table_has_every_encoder_and_whole_rows(fragments):
    images = {facts.title for facts in IMAGE_ENCODERS.values()}
    texts = {facts.title for facts in TEXT_ENCODERS.values()}
    expected = {"facts": images, "preprocessing": images, "features": images, "text": texts, "files": images | texts}
    for name, titles in expected.items():
        rows = [line for line in fragments[f"encoders-{name}"].splitlines() if line.startswith("|")]
        cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
        assert len({len(row) for row in cells}) == 1 and all(c.strip() for row in cells for c in row), name
        first = [re.sub(r"\[(.+)\]\(https://.+\)", r"\1", row[0]).split(" {cite}")[0].strip() for row in cells[2:]]
        assert {title.removesuffix(", not in the paper") for title in first} == titles, name


def test_facts_table_counts_tokens():
    table = encoders.facts_table().set_index("in code")
    assert table.loc["`rad_dino`", "tokens"].replace("\u00a0", " ") == "1369 × 768"
    assert table.loc["`rad_dino`", "size"] == "86.6\u00a0M" and table.loc["`c2l`", "class token"] == "no"
    assert sum("not in the paper" not in title for title in table["encoder"]) == len(TABLES_1_AND_8)


def test_what_is_too_long_for_a_table_stands_below_it(fragments):
    for facts in TEXT_ENCODERS.values():
        assert f"- **{facts.title}** has read: {facts.seen}." in fragments["encoders-text"]
    for facts in (*IMAGE_ENCODERS.values(), *TEXT_ENCODERS.values()):
        assert facts.notes in fragments["encoders-files"]


def test_the_first_feature_is_the_default():
    rows = encoders.features_table()
    defaults = rows[rows["feature"].str.contains("default")]
    assert len(defaults) == len(IMAGE_ENCODERS)
    encoder = load_image_encoder("c2l", "random")
    row = defaults[defaults["encoder"] == "C2L"].iloc[0]
    assert row["feature"].startswith(f"`{encoder.feature_name}`") and row["width"] == encoder.width


def test_commands_and_arguments_on_the_page_exist():
    assert "{literalinclude} add_an_encoder.py" in PAGE
    fetched = re.search(r"pkd_utils fetch ([\w ]+)", PAGE).group(1).split()
    assert fetched and set(fetched) <= set(assets.ASSETS)
    verified = re.findall(r"pkd_utils encoders verify (\w+) (\S+)", PAGE)
    assert verified and all(file.split("/")[-1] in IMAGE_ENCODERS[name].files for name, file in verified)
    arguments = inspect.signature(load_image_encoder).parameters
    open_table = PAGE.split("## What the paper leaves open")[1].split("```")[0]
    named = dict.fromkeys(re.findall(r"`(\w+)(?:=[^`]+)?` \|", open_table))
    assert {"feature", "include_cls", "upsample", "preprocessing"} <= set(named) <= set(arguments)
    for name, value in re.findall(r'`(feature|preprocessing)="(\w+)"`', open_table):
        assert any(value in getattr(f, "features" if name == "feature" else name) for f in IMAGE_ENCODERS.values())


def test_sources_become_links():
    for source in ("a.org/b (python -m c)", "a.org/b"):
        assert encoders.link("B", source) == "[B](https://a.org/b)"
    assert encoders.link("B", "the package: pkd_utils/b") == "B"
    assert encoders.yes(None) == "not stated" and encoders.millions(0) == "not counted"


def test_fingerprints_are_shown_as_recorded():
    entry = {"file": "f.pth", "sha256": "ab" * 32, "fingerprint": {"tokens": "2 x 3", "mean": -0.12345, "sd": 1.0}}
    text = markdown.markdown_table(encoders.fingerprint_table({"c2l feature=layer4 preprocessing=paper": entry}))
    for part in ("`c2l`", "layer4, paper", "`abababab`", "2\u00a0×\u00a03", "-0.1235"):
        assert part in text


def test_speed_is_shown_where_it_was_measured(tmp_path):
    assert "No measurement" in encoders.speed_fragment(tmp_path / "absent.json")
    row = {"encoder": "c2l", "precision": "bf16", "batch": 4, "tokens_per_s": 12345.678, "images_per_s": 12.34567,
           "reference": "autocast", "ratio": 0.9914, "share_of_peak": 0.456}  # fmt: skip
    machine = {"cpu": "A processor", "threads": 2, "torch": "2", "peak": [{"precision": "fp32", "gflop_per_s": 99.0}]}
    report = {"name": "encoders", "machine": machine, "rows": [row], "text_rows": [], "preprocessing": [], "gpu": []}
    files.write_json(tmp_path / "benchmark-encoders.json", report)
    text = re.sub(" {2,}", " ", encoders.fragments(tmp_path)["encoders-speed"])
    for part in ("A processor, 2 threads", "12,300", "| 12.3 |", "0.991", "46%", "99 GFLOP/s in fp32"):
        assert part in text
    assert "On the GPU" not in text and "Text encoders" not in text

"""The section of matched encoders: every contrast with its reading, the control, and the gain beside its controls."""

import itertools

import pytest

from pkd_utils.runs import files, paths
from pkd_utils.studies.transfer import arms, statistic
from workflow.publish.pages import pretraining

CONTRAST = {"kind": "alignment", "against": "image_ssl", "size": 100, "difference": 0.0123, "low": -0.01, "high": 0.04,
            "p": 0.2, "p_holm": 0.61, "detectable": 0.051, "reading": "cannot tell"}  # fmt: skip


def stored(tmp_path):
    """A result as reports/08 publishes it."""
    told = {"auroc": 0.7, "low": 0.6, "high": 0.8}
    cells = itertools.product(("untrained", "image_ssl"), (100, 800), ("Opacity", statistic.MEAN))
    auroc = [{"kind": kind, "size": size, "outcome": outcome, **told} for kind, size, outcome in cells]
    claim = {"report": arms.TEXT, "over_image": 0.011, "over_self": 0.012, "over_permuted": 0.013}
    claim |= {"reading": "cannot tell", "detectable": 0.0456}
    claim |= {f"over_{what}_{end}": end == "high" for what in ("image", "self", "permuted") for end in ("low", "high")}
    claims = [{"setting": name, "outcome": outcome, **claim, **changes}
              for name in ("image_ssl-100", "untrained-100") for outcome in ("Opacity", "Abnormal", statistic.MEAN)
              for changes in ({}, {"report": arms.JOINT, "over_image": 0.5})]  # fmt: skip
    notes = ["Control, pretrained above untrained: came out.", "more"]
    record = {"auroc": auroc, "contrasts": [CONTRAST], "contrasts of gains": [{**CONTRAST, "reading": "no difference"}]}
    told = [{**CONTRAST, "kind": kind, "against": "untrained", "reading": reading}
            for kind, reading in (("image_ssl", "better"), ("masked", "cannot tell"))]  # fmt: skip
    record |= {"control": told, "claims": claims, "notes": notes, "commit": "abc"}
    name = "book/protocols/pretraining.yml"
    record |= {"protocol": name, "protocol_sha256": files.file_sha256(paths.resolve(name))}
    files.write_json(tmp_path / "stored.json", record)
    return tmp_path / "stored.json"


def test_the_section_shows_contrasts_control_and_gain_beside_its_controls(tmp_path):
    text = pretraining.section(stored(tmp_path), tmp_path)
    assert "Control, pretrained above untrained: came out." in text and "more" not in text.split("Provenance")[0]
    assert all(w in text for w in ("ViT of 4 blocks", "cannot tell", "no difference", "would have told", "0.051"))
    rows = [line for line in text.split("beside its controls")[1].splitlines() if "100" in line]
    ends = [f"+0.01{digit}0 (+0.0000 to +1.0000)" for digit in (1, 2, 3)]
    assert len(rows) == 2 and all(end in row for row in rows for end in (*ends, "0.0456"))
    assert "untrained, 100 training studies" in rows[1]
    assert "0.5" not in "".join(rows)
    assert (tmp_path / "openi-pretraining.png").exists() and ":alt: AUROC" in text


def test_a_result_of_another_protocol_shows_no_number(tmp_path):
    file = stored(tmp_path)
    files.write_json(file, files.read_json(file) | {"protocol_sha256": "0" * 64})
    for text in (pretraining.section(file, tmp_path), pretraining.finding(file)):
        assert pretraining.OTHER in text and "0.0" not in text


def test_without_a_stored_result_there_is_no_section(tmp_path):
    assert pretraining.section(tmp_path / "none.json", tmp_path) == ""
    assert "No such result" in pretraining.finding(tmp_path / "none.json")


def test_the_finding_says_each_reading_and_a_control_that_failed(tmp_path):
    text = pretraining.finding(stored(tmp_path))
    assert "5 pretraining seeds" in text
    assert "+0.012 (-0.010 to +0.040) with 100 training studies: cannot tell (primary endpoint)" in text
    assert "with 100 training studies: no difference" in text
    assert "The control failed for masked image and report" in text and "self-supervision: not" not in text


def test_what_was_explored_after_stands_below_the_result(tmp_path):
    file = stored(tmp_path)
    assert "Exploratory" not in pretraining.section(file, tmp_path)
    result = files.read_json(file) | {"title": "More words hidden", "protocol": "words.yml"}
    files.write_json(tmp_path / pretraining.EXPLORED, result)
    text = pretraining.section(file, tmp_path)
    assert "Exploratory, after that: More words hidden. Control, pretrained above untrained: came out." in text
    below = text.split("dropdown} Masked")[1].split(":::")[0]
    assert "masked image and report, less untrained" in below and "alignment" not in below
    told = pretraining.finding(file)
    later = "explored after: Control, pretrained above untrained: came out."
    assert told.index("The control failed") < told.index(later)


@pytest.mark.parametrize("what", ["contrasts", "contrasts of gains"])
def test_the_uncorrected_p_is_not_shown(what, tmp_path):
    shown = pretraining.told(files.read_json(stored(tmp_path))[what])
    assert "p" not in shown and "p (Holm)" in shown

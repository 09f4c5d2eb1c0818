"""The home page leads with what is stored of real data, in its own numbers, and no image that may not be shown."""

import re

import pandas as pd
import pytest

from pkd_utils.runs import files, paths
from pkd_utils.studies.transfer.figures import outcome_figure
from workflow.publish.pages import front, lesions, transfer
from workflow.publish.pages.markdown import interval

BOOK = paths.PROJECT_ROOT / "book"


def test_three_sentences_say_the_stored_numbers(tmp_path):
    page = front.front(BOOK, tmp_path, None)
    first, second, third = re.findall(r"^- (.*)$", page, re.M)
    claims = pd.DataFrame(files.read_json(BOOK / "results" / transfer.STORED)["claims"])
    row = claims[(claims["setting"] == "main") & (claims["outcome"] == "mean of all")].iloc[0]
    assert interval(row["over_image"], row["over_image_low"], row["over_image_high"], 4) in first
    assert row["report"] == "text teacher" and f"*{row['reading']}*" in first
    rows = pd.DataFrame(files.read_json(BOOK / "results" / lesions.STORED)[lesions.ARMS])
    gains = rows[(rows["method"] == "mmpkd") & (rows["against"] == "baseline")].set_index("metric")
    for metric in ("pixel_auroc", "macro AUROC"):
        assert interval(*gains.loc[metric, ["estimate", "low", "high"]]) in second
        assert f"{gains.loc[metric, 'detectable']:.3f} was likely" in second
    assert second.index("(primary endpoint)") < second.index("pixel AUROC")
    assert "by Holm's method" in third
    assert (tmp_path / "home-gains.png").is_file() and page.index("home-gains.png") < page.index("- **Radio")
    assert front.NONE in front.front(tmp_path, tmp_path, None)


def test_a_better_prediction_is_not_said_to_lie_towards_a_region():
    row = {"method": "mmpkd", "against": "baseline", "images": 9, "estimate": 0.1, "low": 0.05, "high": 0.2}
    rows = [row | {"metric": name, "verdict": "towards the region"} for name in ("pixel_auroc", "macro AUROC")]
    said = front.ultrasound({lesions.ARMS: rows})
    assert "+0.200): *better*" in said and "+0.200): *towards the region*" in said


@pytest.mark.parametrize("cohort", [{"shareable_text": True}, None])
def test_no_picture_of_images_that_may_not_be_shown(tmp_path, cohort):
    files.write_json(tmp_path / "run.json", {"cohort": cohort, "parameters": {}})
    assert front.picture(tmp_path) is None
    assert "home-attention" not in front.front(BOOK, tmp_path, tmp_path)


def test_marks_stand_at_their_outcome_and_gain():
    arms = list(front.ARMS)
    rows = [("s", o, arm, 0.1 * i + 0.01 * j) for i, o in enumerate("ab") for j, arm in enumerate(arms)]
    gains = pd.DataFrame(rows, columns=["setting", "outcome", "arm", "gain"])
    gains = gains.assign(low=gains["gain"] - 0.5, high=gains["gain"] + 0.2)
    (ax,) = outcome_figure(gains, "s", ["b", "a"], front.ARMS).axes
    marks = {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}
    for j, name in enumerate(front.ARMS.values()):
        assert marks[name].get_xdata().tolist() == pytest.approx([0.1 + 0.01 * j, 0.01 * j])
        assert [round(y) for y in marks[name].get_ydata()] == [0, 1]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "a"]

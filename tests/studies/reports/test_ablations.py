"""Ablations on scores whose answers are known: what is compared with what, and what the sentences say."""

import numpy as np
import pandas as pd
import pytest

from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.comparisons import holm, paired_seeds
from pkd_utils.studies.reports.ablations import AXES, Held, compare, lacking, sentences
from pkd_utils.studies.reports.contrasts import Scores
from pkd_utils.studies.reports.figures import READINGS, ablation

HELD = Held(0.75, 0.25, {"mimic_5x1200": 2.5})
SHARE = 0.2
TASKS = {"readmission_12_month": "Readmission", "mimic_5x1200": "Five findings"}
NONE = {"weight": np.nan, "temperature": np.nan, "reader": ""}


def world(students, probes=("mean_probe", "cls_probe"), seeds=5) -> Scores:
    """Image-only heads of AUC 0.7, probes of 0.65, self-distilled heads of 0.71, and students.

    students: (weight, temperature, reader, AUC beyond 0.7); epochs chosen on the reported patients add 0.01 everywhere.
    """
    rng, rows = np.random.default_rng(0), []
    for task in TASKS:
        heads = [("image_only", NONE, 0.0), *((probe, NONE, -0.05) for probe in probes)]
        for weight, tau, reader, gain in students:
            setting = {"weight": weight, "temperature": tau, "reader": reader}
            heads += [("self_distilled", setting | {"reader": ""}, 0.01), ("report_distilled", setting, gain)]
        for method, setting, gain in heads:
            for seed in range(seeds):
                row = {"task": task, "encoder": "rad_dino", "size": 100, "seed": seed, "method": method, **setting}
                auc = 0.7 + gain + 0.001 * rng.standard_normal()
                rows.append(row | {"auc": auc + 0.01, "auc_other_half": auc})
    rows = pd.DataFrame(rows).drop_duplicates(["task", "method", "seed", *NONE])
    return Scores(rows, TASKS, dict.fromkeys(TASKS, SHARE), dict.fromkeys(TASKS, "one"))


STUDENTS = [
    (0.75, 0.25, "BioViL-T", 0.05),
    (0.75, 2.5, "BioViL-T", 0.02),
    (0.25, 0.25, "BioViL-T", 0.03),
    (0.75, 0.25, "Other", -0.04),
]


@pytest.fixture(scope="module")
def table():
    return compare(world(STUDENTS), HELD)


def test_each_setting_varies_alone_and_every_gain_stands_beside_self_distillation(table):
    found = table[(table["column"] == "auc_other_half") & (table["task"] == "readmission_12_month")]
    values = found.groupby("axis")["value"].unique().map(list).to_dict()
    assert values == {
        "method": ["mean_probe", "cls_probe"],
        "temperature": [0.25, 2.5],
        "reader": ["BioViL-T", "Other"],
        "weight": [0.25, 0.75],
    }
    gains = found.set_index(["axis", "value", "method", "against"])["difference"]
    for axis, value, gain in (("temperature", 2.5, 0.02), ("weight", 0.25, 0.03), ("reader", "Other", -0.04)):
        assert gains[axis, value, "report_distilled", "image only"] == pytest.approx(gain, abs=0.003)
        assert gains[axis, value, "self_distilled", "image only"] == pytest.approx(0.01, abs=0.003)
        assert gains[axis, value, "report_distilled", "self-distilled"] == pytest.approx(gain - 0.01, abs=0.003)
    assert gains["method", "cls_probe", "cls_probe", "attention head"] == pytest.approx(-0.05, abs=0.003)
    # The five findings are held at their own temperature, where one weight and reader were run.
    assert set(table.loc[table["task"] == "mimic_5x1200", "axis"]) == {"method", "temperature"}


def test_a_row_is_the_paired_difference_with_nadeau_and_bengios_interval_and_holms_p():
    scores = world(STUDENTS)
    table, rows = compare(scores, HELD, level=0.9), scores.rows
    family = table[(table["axis"] == "weight") & (table["column"] == "auc")]
    row = family[(family["value"] == 0.25) & (family["against"] == "self-distilled")].iloc[0]
    rows = rows[(rows["task"] == row["task"]) & (rows["weight"] == 0.25)].set_index("seed")
    by_hand = [rows.loc[rows["method"] == method, "auc"] for method in ("self_distilled", "report_distilled")]
    expected = vars(paired_seeds(*by_hand, SHARE, 0.9))
    assert row[list(expected)].to_dict() == pytest.approx(expected)
    assert row["auc"] == pytest.approx(by_hand[1].mean())
    np.testing.assert_allclose(family["p_holm"], holm(family["p_corrected"]))
    assert (family["told"] > 0).all()


def test_what_no_head_has_is_left_out_and_nothing_at_all_is_refused():
    scores = world(STUDENTS[:1])
    scores.rows["auc_other_half"] = np.nan  # as with nested selection
    table = compare(scores, HELD)
    assert set(table["axis"]) == {"method"} and set(table["column"]) == {"auc"}
    assert lacking(table, "method") == ""
    assert lacking(table, "reader").startswith("The text encoder (Figures 19 and 20) varies in none of these runs:")
    with pytest.raises(DataError, match="Nothing varies over two seeds: give a run of 03-train-teachers with"):
        compare(world(STUDENTS[:1], probes=()), HELD)


def test_sentences_count_students_above_both_controls(table):
    said = sentences(table[table["column"] == "auc_other_half"], TASKS)
    assert said[0] == "Head, Readmission: 0 of 2 probes lie above the attention head, 2 below it."
    expected = "Text encoder (BioViL-T; Other), Readmission: 1 of 2 students lie above both"
    assert any(sentence.startswith(expected) for sentence in said)
    beside_self = compare(world([(0.75, 0.25, "a", 0.01), (0.75, 1.0, "a", 0.01)]), HELD)  # no more than self-distilled
    said = sentences(beside_self[beside_self["column"] == "auc"], TASKS)
    assert any("Readmission: 0 of 2 students lie above both the image-only and the self-distilled head, 0 below one of "
               "them; of the others we cannot tell (differences of 0.00" in s for s in said)  # fmt: skip


@pytest.mark.parametrize("axis", AXES)
def test_the_figure_shows_every_difference_in_both_readings(table, axis):
    rows = table[(table["axis"] == axis) & (table["task"] == "readmission_12_month")]
    figure = ablation(rows, "Readmission", AXES[axis].title)
    drawn = [y for container in figure.axes[0].containers for y in container.lines[0].get_ydata()]
    assert sorted(drawn) == pytest.approx(sorted(rows["difference"]))
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[-2:] == list(READINGS.values())

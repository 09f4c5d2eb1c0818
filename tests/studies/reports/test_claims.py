"""The paper's sentences on scores whose answers are known, for each kind of contrast; and their tests by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pkd_utils.encoders.zoo import IMAGE_ENCODERS
from pkd_utils.statistics.comparisons import holm, paired_seeds
from pkd_utils.studies.reports import claims, contrasts
from pkd_utils.studies.reports.claims import VERDICTS, compare_methods, held_against, joined, verdicts
from pkd_utils.studies.reports.contrasts import Difference, Scores
from pkd_utils.studies.reports.paper_claims import (
    AGE,
    CLAIMS,
    DIRECTIONS,
    EMBOLISM,
    FIVE,
    MIMIC,
    PANELS,
    PH,
    PRE,
    PROGNOSES,
    READMITTED,
    STAY,
)

ENCODERS = [encoder for names in PANELS["the paper's encoders"].values() for encoder in names]
STAND_INS = [encoder for names in PANELS["matched stand-ins"].values() for encoder in names]
METHODS = ("image_only", "self_distilled", "report_distilled", "teacher", "text_only", "mean_probe", "cls_probe")
HOLDS, FAILS, UNSURE, UNTESTED = VERDICTS
SHARE = 0.2


def world(changes=(), noise=0.0003, encoders=ENCODERS, tasks=(*FIVE, EMBOLISM), seeds=5) -> Scores:
    """Heads whose AUC is 0.7 but for `changes`: (part of its names, what is added); two cohorts."""
    names = {"task": tasks, "size": (100, 2000), "method": METHODS, "encoder": encoders, "seed": range(seeds)}
    rows = pd.MultiIndex.from_product(names.values(), names=names).to_frame(index=False)
    rows["auc"] = 0.7 + noise * np.random.default_rng(1).standard_normal(len(rows))
    for part, added in changes:
        chosen = np.all([rows[["task", "size", "method", "encoder"]].eq(name).any(axis=1) for name in part], axis=0)
        rows.loc[chosen, "auc"] += added
    cohorts = {task: "mimic" if task in (MIMIC, AGE, STAY) else "inspect" for task in tasks}
    return Scores(rows, {task: task.title() for task in tasks}, dict.fromkeys(tasks, SHARE), cohorts)


def each(encoders, *names, by):
    """The same change of several encoders."""
    return [((encoder, *names), by) for encoder in encoders]


TEXT = ("gloria", "biovil_t", "mrm")
GAIN = ("report_distilled", READMITTED, 100)
STAIRS = [((encoder,), 0.05 * k) for k, encoder in enumerate(ENCODERS)]

# A claim for every kind of contrast and every word of a `Line`, scores by which it holds, and by which it does not.
KNOWN = [
    ("Distillation helps a prognosis", [(GAIN, 0.05)], [(GAIN, -0.05)]),
    ("Reports in pretraining help a diagnosis", each(TEXT, MIMIC, 100, by=0.1), each(TEXT, MIMIC, 100, by=-0.1)),
    ("Alignment costs what reports leave out", each(TEXT, AGE, by=-0.1), each(TEXT, AGE, by=0.1)),
    ("They help diagnostic labels most", each(TEXT, MIMIC, 100, by=0.1), each(TEXT, AGE, 100, by=0.1)),
    ("C2L is close to GLoRIA on age", [], [(("c2l", AGE), -0.05)]),
    ("BiomedCLIP is poor in both settings", [(("biomedclip",), -0.1)],
     [(("biomedclip", MIMIC), -0.1), (("biomedclip", AGE), 0.1)]),
    ("RAD-DINO overtakes above 1,000 images", [(("rad_dino", 2000), 0.1), (("rad_dino", 100), -0.1)],
     [(("rad_dino", 2000), 0.1), (("rad_dino", 100), 0.1)]),
    ("BioViL is the worst a year ahead", [(("biovil_t", PH), -0.1)],
     [(("biovil_t", PH), -0.1), (("biovil_t", PH, 2000), 0.2)]),
    ("The gap of image and report is the cost of alignment",
     [(("text_only", AGE), -0.3), *each(TEXT[:2], AGE, "image_only", by=-0.1)],
     [(("text_only", AGE), -0.3), *each(TEXT[:2], AGE, "image_only", by=0.1)]),
    ("The order of encoders varies over prognoses", [(("gloria", STAY), 0.1), (("gloria", PH), -0.1)], STAIRS),
    ("Self-distillation does not help", [], [(("self_distilled", READMITTED), 0.05)]),
    ("Distillation matters more than the encoder", [*STAIRS, (GAIN, 0.32)], [*STAIRS, (GAIN, 0.24)]),
    ("With more images encoders differ more", [(("mrm", READMITTED, 2000), 0.1), (("c2l", READMITTED, 100), 0.05)],
     [(("mrm", READMITTED, 2000), 0.05), (("c2l", READMITTED, 100), 0.1)]),
    ("Not every prognosis gains", [((*GAIN[:1], STAY), 0.1), (GAIN, 0.1)],
     [(("report_distilled", task), 0.1) for task in PROGNOSES]),
    ("Encoders gain differently", [((*GAIN, "c2l"), 0.05)], [(GAIN, 0.05)]),
    ("Four encoders gain on readmission, two do not", each(("medical_mae", "rad_dino", "mrm", "gloria"), *GAIN, by=0.1),
     [(GAIN, 0.1)]),
    ("RAD-DINO gains most on discharge", [(("report_distilled", STAY, "rad_dino"), 0.1)],
     [(("report_distilled", STAY, "rad_dino"), 0.1), (("report_distilled", STAY, "mrm"), 0.2)]),
    ("Attention pays most for RAD-DINO", [(("mean_probe", 2000, "rad_dino"), -0.1)],
     [(("mean_probe", 2000, "rad_dino"), -0.1), (("mean_probe", 2000, MIMIC, "mrm"), -0.2)]),
    ("A student can pass its teacher", [(("report_distilled", STAY, 2000, "c2l"), 0.1)], [(("teacher", STAY), 0.1)]),
    ("Age is in the image", [(("teacher", AGE), -0.1)], [(("teacher", AGE), -0.1), (("teacher", AGE, "c2l"), 0.2)]),
    ("Age is what reports tell least", [(("text_only", AGE), -0.2)], [(("text_only", PH), -0.2)]),
]  # fmt: skip


@pytest.fixture
def verdict(monkeypatch):
    """The row of one claim, judged alone."""

    def judged(name, scores):
        monkeypatch.setattr(claims, "CLAIMS", [claim for claim in CLAIMS if claim.name == name])
        return verdicts(scores).iloc[0]

    return judged


@pytest.mark.parametrize(("name", "holds", "fails"), KNOWN, ids=[name for name, *_ in KNOWN])
def test_a_claim_holds_or_fails_where_it_is_known_to(name, holds, fails, verdict):
    # Where each pair of encoders is held against each pair, three make 36 comparisons, seven 1,764.
    encoders = ("c2l", "gloria", "mrm") if name == "With more images encoders differ more" else ENCODERS
    for changes, expected in ((holds, HOLDS), (fails, FAILS)):
        assert verdict(name, world(changes, encoders=encoders))["verdict"] == expected


def test_every_kind_and_direction_is_among_the_known():
    known = [line for claim in CLAIMS for line in claim.lines if claim.name in [name for name, *_ in KNOWN]]
    assert {line.kind for line in known} == set(contrasts.KINDS)
    assert {line.direction for line in known} == set(DIRECTIONS)


def test_noise_tells_nothing_and_says_what_would_have_told():
    scores = world(noise=0.1, encoders=STAND_INS)
    judged = verdicts(scores)
    assert set(judged["verdict"][judged["difference"].notna()]) == {UNSURE}
    assert (judged["told"].dropna() > 0.05).all()
    said = claims.sentences(judged, compare_methods(scores))
    row = judged.set_index("claim").loc["Self-distillation does not help"]
    mine = next(text for text in said if text.startswith("Self-distillation does not help: cannot tell."))
    ends = f"{0.01 - row['told']:+.3f} or less and {0.01 + row['told']:+.3f} or more"
    assert mine.endswith(f"With a power of 80%, {ends} would have been told.")
    several = judged["tests"].gt(1) & judged["told"].notna()
    shown = dict(zip(judged["claim"], several, strict=True))
    for text in said[: judged["difference"].notna().sum()]:
        assert text.endswith("of that one by itself.") == shown[text.split(": ")[0]] or "there can be" in text


def test_every_claim_is_tested_or_says_what_it_needs():
    judged = verdicts(world())
    assert [bool(claim.needs) for claim in CLAIMS] == [not claim.lines for claim in CLAIMS]
    assert (judged["verdict"] == UNTESTED).tolist() == [not claim.lines for claim in CLAIMS]
    named = [line.encoders for claim in CLAIMS for line in claim.lines if isinstance(line.encoders, tuple)]
    assert {encoder for names in named for encoder in names} <= set(IMAGE_ENCODERS)


@pytest.mark.parametrize(
    ("name", "left_out", "basis"),
    [
        ("Distillation helps a prognosis", ("task", READMITTED), "needs task readmission_12_month"),
        ("RAD-DINO overtakes above 1,000 images", ("size", 2000), "training sizes above 1000 images of mimic_5x1200"),
        ("RAD-DINO overtakes above 1,000 images", ("encoder", "gloria"), "of one panel: rad_dino, gloria, biovil_t"),
        ("Alignment costs what reports leave out", ("task", AGE), "needs task age"),
        ("Alignment costs what reports leave out", ("encoder", "c2l"), "panel: aligned and self-supervised"),
        ("They help diagnostic labels most", ("encoder", "mrm"), "panel: pretrained with reports and self-supervised"),
        ("Masked modelling avoids that cost", ("encoder", "mrm"), "needs encoders of one panel: masked and aligned"),
        ("Age is in the image", ("method", "teacher"), "needs method teacher on age"),
        ("RAD-DINO gains most on discharge", ("encoder", "rad_dino"), "needs encoder rad_dino on discharge_3_day"),
        ("With more images encoders differ more", ("size", 100), "needs two training sizes of readmission_12_month"),
        ("They help diagnostic labels most", ("task", PH), "needs task ph_12_month"),
    ],
)
def test_what_was_not_run_is_named(name, left_out, basis, verdict):
    scores, (column, value) = world(), left_out
    row = verdict(name, scores._replace(rows=scores.rows[scores.rows[column] != value]))
    assert row["verdict"] == UNTESTED and basis in row["basis"] and np.isnan(row["difference"])
    assert verdict(name, scores._replace(rows=scores.rows.query("seed == 0")))["basis"].startswith("needs two seeds")


def test_one_encoder_alone_gains_no_more_than_others(verdict):
    row = verdict("RAD-DINO gains most on discharge", world(encoders=["rad_dino"]))
    assert row["basis"] == "needs a second encoder"


def test_unmatched_encoders_decide_nothing_about_pretraining():
    changes = [(("simulated_alignment",), -0.1), (("dinov2_s14",), -0.3), (("rad_dino",), 0.2)]
    alone = verdicts(world(changes, encoders=STAND_INS))
    beside = verdicts(world(changes, encoders=[*STAND_INS, "dinov2_s14", "rad_dino"]))
    for table in (alone, beside):
        row = table.set_index("claim").loc["Alignment costs what reports leave out"]
        assert row["verdict"] == HOLDS and row["difference"] == pytest.approx(-0.1, abs=0.001)
        assert "Simulated alignment against Simulated SSL" in row["basis"]
    tested = alone["family"].eq(PRE) & alone["difference"].notna()
    assert tested.sum() >= 10
    assert beside["verdict"][tested].tolist() == alone["verdict"][tested].tolist()


def test_kinds_are_the_papers():
    found = {name: contrasts.encoder_group(name) for name in IMAGE_ENCODERS}
    ssl, aligned, masked = contrasts.GROUPS
    for panel in PANELS.values():
        kinds = (("self-supervised", ssl), ("aligned", aligned), ("masked", masked))
        assert all(found[e] == group for kind, group in kinds for e in panel[kind])
    assert found["efficientnet_lite0"] == "" and set(ENCODERS) < set(IMAGE_ENCODERS)


def series(*values):
    return pd.Series(values)


def test_tasks_of_one_run_are_added_within_seeds_and_runs_apart():
    scores = Scores(pd.DataFrame(), {}, {"a": 0.2, "b": 0.25, "c": 0.1}, {"a": "m", "b": "i", "c": "m"})
    one = Difference("", {"a": series(0.03, 0.05), "b": series(0.01, 0.03, 0.05), "c": series(0.01, 0.01)})
    found = held_against(one, scores, 1, 0.0)
    # a + c: 0.04, 0.06, variance 0.0002, times 1/2 + 0.2/0.8; b: variance 0.0004, times 1/3 + 0.25/0.75.
    assert found.difference == pytest.approx(0.08)
    assert found.error == pytest.approx((0.00015 + 0.0004 * 2 / 3) ** 0.5)
    freedom = (0.00015 + 0.0004 * 2 / 3) ** 2 / (0.00015**2 / 1 + (0.0004 * 2 / 3) ** 2 / 2)
    assert found.freedom == pytest.approx(freedom) == pytest.approx(2.990, abs=0.001)
    assert found.yes == pytest.approx(2 * stats.t.sf(0.08 / found.error, freedom))
    assert found.seeds == 2 and np.isnan(found.wins)


def test_no_gain_has_a_null_of_its_own():
    scores = Scores(pd.DataFrame(), {}, {"a": SHARE}, {"a": "m"})
    values = np.array([0.004, -0.002, 0.001, 0.003, 0.0])
    found = held_against(Difference("", {"a": pd.Series(values)}), scores, -1, 0.01)
    error = values.std(ddof=1) * (1 / 5 + 0.25) ** 0.5
    t = (values.mean() - 0.01) / error
    assert (found.yes, found.no) == pytest.approx((2 * stats.t.cdf(t, 4), 2 * stats.t.sf(t, 4)))
    assert found.wins == 1.5
    against_zero = held_against(Difference("", {"a": pd.Series(values)}), scores, 1, 0.0)
    pair = paired_seeds(np.zeros(5), values, SHARE)
    assert against_zero.yes == pytest.approx(pair.p_corrected) and against_zero.wins == pair.wins
    constant = held_against(Difference("", {"a": series(0.0, 0.0)}), scores, 1, 0.0)
    assert (constant.yes, constant.no) == (1.0, 1.0)


def test_every_one_is_as_sure_as_the_weakest_and_some_one_pays_for_looking():
    parts = [claims.Tested(str(p), 0.1, 0.1, 4.0, 5, 5.0, 1.0, 0.0, p, 2 - p) for p in (0.01, 0.2, 1.97)]
    every, some = (joined(how, parts) for how in ("every", "some"))
    assert every.yes == 1.97 and every.no == pytest.approx(3 * 0.03) and every.label == "1.97"
    assert some.yes == pytest.approx(3 * 0.01) and some.no == pytest.approx(1.99) and some.label == "0.01"
    assert every.tests == some.tests == 3 and joined("every", parts[:1]).yes == 0.01


def test_holm_runs_within_families_and_verdicts_use_it():
    judged = verdicts(world([(GAIN, 0.02)], noise=0.01, encoders=STAND_INS))
    for _, family in judged.dropna(subset="p").groupby("family"):
        np.testing.assert_allclose(family["p_holm"], holm(family["p"]))
        alpha = 0.05 / len(family)
        row = family.iloc[0]
        half = (row["high"] - row["low"]) / 2
        if row["tests"] == 1 and abs(row["low"]) < 0.9:
            error = half / stats.t.ppf(0.975, 4)
            power = stats.nct.sf(stats.t.isf(alpha / 2, 4), 4, row["told"] / error)
            assert power == pytest.approx(0.8, abs=1e-6)
    clear = judged["p_holm"] <= 0.05
    assert judged["verdict"].isin([HOLDS, FAILS]).tolist() == clear.tolist()
    uncorrected = judged["p"] <= 0.05
    assert (uncorrected & ~clear).any()


def test_methods_are_compared_by_encoder_in_the_papers_families():
    scores = world([(("report_distilled",), 0.02), (("self_distilled",), 0.05)], tasks=(AGE, PH), noise=0.01)
    table = compare_methods(scores)
    pairs = {(row.method, row.against, row.family) for row in table.itertuples()}
    assert pairs == {
        ("self_distilled", "image_only", "students"),
        ("report_distilled", "image_only", "students"),
        ("report_distilled", "self_distilled", "students"),
        *((method, "image_only", method) for method in ("teacher", "text_only", "mean_probe", "cls_probe")),
    }
    assert len(table) == 2 * 2 * len(ENCODERS) * 7
    mine = "task == 'age' and size == 100 and encoder == 'mrm'"
    one = table.query(f"{mine} and against == 'self_distilled'").iloc[0]
    wide = scores.rows.query(mine).pivot(index="seed", columns="method", values="auc")
    difference = wide["report_distilled"] - wide["self_distilled"]
    assert one["difference"] == pytest.approx(difference.mean())
    assert one["error_corrected"] == pytest.approx(difference.std() * (1 / 5 + 0.25) ** 0.5)
    for _, family in table.groupby(["task", "family"]):
        np.testing.assert_allclose(family["p_holm"], holm(family["p_corrected"]))


def test_a_headline_counts_every_claim():
    judged = verdicts(world([(GAIN, 0.05)], encoders=STAND_INS, tasks=(READMITTED,)))
    count = judged["verdict"].value_counts()
    assert claims.headline(judged, "simulated data") == (
        f"On simulated data, of {len(CLAIMS)} findings {count[HOLDS]} hold here, {count.get(FAILS, 0)} do not hold "
        f"here, {count.get(UNSURE, 0)} cannot be told; {count[UNTESTED]} cannot be tested with what was run."
    )
    said = claims.sentences(judged, compare_methods(world(encoders=STAND_INS)))
    assert any(text.startswith("Cannot be tested here (needs task age): ") for text in said)
    assert sum(text.startswith("Distillation helps a prognosis: holds here. The paper: ") for text in said) == 1

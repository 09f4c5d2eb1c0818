"""Statistics over seeds, and the findings of the reports paper as contrasts of scores."""

import numpy as np
import pandas as pd
import pytest

from pkd_utils.statistics.comparisons import paired_seeds
from pkd_utils.studies.reports import claims
from pkd_utils.studies.reports.claims import CLAIMS, Claim, compare_methods, contrast, judge_claim, verdicts

SHARES = {"age": 0.1, "readmission_12_month": 0.25, "mimic_5x1200": 0.17, "discharge_3_day": 0.1, "ph_12_month": 0.25}


def scores_of(values, task="readmission_12_month", size=200):
    """One row a head from {(encoder, method): AUC of every seed}."""
    return pd.DataFrame(
        [
            {"encoder": encoder, "task": task, "method": method, "seed": seed, "size": size, "auc": auc}
            for (encoder, method), aucs in values.items()
            for seed, auc in enumerate(aucs)
        ]
    )


def test_encoders_are_sorted_as_in_figure_2():
    found = {name: claims.encoder_group(name) for name in claims.IMAGE_ENCODERS}
    ssl, aligned, masked = claims.GROUPS
    assert {n for n, g in found.items() if g == aligned} >= {"biovil_t", "gloria", "biomedclip"}
    assert {n for n, g in found.items() if g == ssl} >= {"rad_dino", "c2l", "medical_mae"}
    assert found["mrm"] == masked and found["efficientnet_lite0"] == ""


def test_a_contrast_of_methods_stays_within_seed_and_encoder():
    aucs = {"rad_dino": ([0.60, 0.70], [0.65, 0.72]), "mrm": ([0.50, 0.90], [0.53, 0.94])}
    methods = ("image_only", "report_distilled")
    scores = scores_of({(e, m): values for e, pair in aucs.items() for m, values in zip(methods, pair, strict=True)})
    claim = Claim("", "", "readmission_12_month", "smallest", "report_distilled", "image_only", "positive")
    values, basis = contrast(scores, claim)
    np.testing.assert_allclose(values, [0.04, 0.03])
    assert basis == "2 encoders, 200 training images"


def test_only_the_smallest_size_where_the_finding_says_so():
    methods = ("image_only", "report_distilled")
    scores = pd.concat([scores_of({("mrm", m): [0.5 + gain * (m != "image_only")] * 2 for m in methods}, size=size)
                        for size, gain in ((100, 0.1), (400, 0.3))])  # fmt: skip
    for sizes, expected in (("smallest", 0.1), ("all", 0.2)):
        claim = Claim("", "", "readmission_12_month", sizes, "report_distilled", "image_only", "positive")
        np.testing.assert_allclose(contrast(scores, claim)[0], expected)


def test_a_contrast_of_kinds_compares_image_only_heads():
    scores = scores_of(
        {
            ("rad_dino", "image_only"): [0.9, 0.8],
            ("c2l", "image_only"): [0.7, 0.6],
            ("gloria", "image_only"): [0.5, 0.5],
            ("gloria", "teacher"): [1.0, 1.0],
        },
        task="age",
    )
    claim = next(c for c in CLAIMS if c.name == "Alignment costs what reports leave out")
    np.testing.assert_allclose(contrast(scores, claim)[0], [-0.3, -0.2])


def test_what_was_not_run_cannot_be_told():
    scores = scores_of({("efficientnet_lite0", "image_only"): [0.6, 0.7]}, task="age")
    table = verdicts(scores, SHARES).set_index("claim")
    assert set(table["verdict"]) == {"cannot tell"}
    assert table.loc["Age is in the image", "basis"] == "method teacher was not run"
    assert table.loc["Masked modelling avoids that cost", "basis"].startswith("no encoder of the kind")
    assert table.loc["A student passes its teacher", "basis"] == "task discharge_3_day was not run"


@pytest.mark.parametrize(
    ("gains", "expected", "verdict"),
    [
        ([0.05, 0.06, 0.05, 0.055, 0.052], "positive", "holds here"),
        ([-0.05, -0.06, -0.05, -0.055, -0.052], "positive", "does not hold here"),
        ([-0.05, -0.06, -0.05, -0.055, -0.052], "negative", "holds here"),
        ([0.05, -0.06, 0.02, -0.03, 0.01], "positive", "cannot tell"),
        ([0.001, 0.0, -0.001, 0.0005, 0.0], "not positive", "holds here"),
        ([0.05, 0.06, 0.05, 0.055, 0.052], "not positive", "does not hold here"),
        ([0.012, 0.006, 0.02, -0.003, 0.01], "not positive", "cannot tell"),
    ],
)
def test_verdicts_follow_the_interval(gains, expected, verdict):
    assert judge_claim(paired_seeds(np.zeros(5), gains, 0.25), expected, margin=0.01) == verdict


def test_holm_runs_over_all_that_was_tested():
    rng = np.random.default_rng(0)
    scores = pd.concat(
        [scores_of({(e, m): 0.6 + 0.05 * (m != "image_only") + rng.normal(0, 0.01, 5)
                    for e in ("mrm", "rad_dino", "gloria")
                    for m in ("image_only", "self_distilled", "report_distilled", "teacher")}, task)
         for task in SHARES]
    )  # fmt: skip
    table = verdicts(scores, SHARES)
    assert table["p"].notna().all() and (table["p_holm"] >= table["p"] - 1e-12).all()
    differences = compare_methods(scores, SHARES)
    assert len(differences) == 5 * 3 * 3
    assert (differences["p_holm"] >= differences["p_corrected"]).all()
    assert (differences["p_corrected"] >= differences["p"]).all()

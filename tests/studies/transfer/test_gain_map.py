"""Cells stand where they belong, a known law is found, and a map that knows nothing does not predict."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from pkd_utils.runs.showing import simulated_mark
from pkd_utils.studies.figures import use_style
from pkd_utils.studies.transfer import arms, gain_map, statistic
from pkd_utils.studies.transfer.figures import map_figure
from pkd_utils.studies.transfer.protocol import Setting
from tests.studies.legible import touching

SETTINGS = {
    f"{size}, {flips:.0%}, {text}": Setting("i", text, ("a", "b", "c", "d"), size, flips)
    for size, flips, text in [*product((100, 300, 900), (0.0, 0.3), ("whole", "poor"))]
}


def known_map(law, noise=0.004):
    """Cells with a gain by `law(added, flips, log_size)` of four outcomes, of which the text tells unlike much."""
    rng, rows = np.random.default_rng(0), []
    for (name, setting), outcome in product(SETTINGS.items(), "abcd"):
        tells = 0.05 * ("abcd".index(outcome) + 1) * (0.4 if setting.text == "poor" else 1.0)
        at = {"added": tells + 0.01 * rng.standard_normal(), "flips": setting.flips, "log_size": np.log10(setting.size)}
        gain = law(**at) + noise * rng.standard_normal()
        rows.append({"setting": name, "outcome": outcome, "size": setting.size, "gain": gain, **at})
    return pd.DataFrame(rows)


def law(added, flips, log_size):
    return 0.2 * added + 0.2 * flips - 0.02 * log_size


def test_cells_have_the_gain_of_the_text_teacher_and_the_place_of_their_setting():
    names = ["900, 0%, whole", "100, 30%, poor"]
    claims = pd.DataFrame([
        {"setting": name, "outcome": outcome, "report": report, "over_image": gain, "over_image_low": gain - 1,
         "over_image_high": gain + 2, "claimed": gain == 2.0}
        for name, outcome, report, gain in (
            (names[0], "a", arms.TEXT, 1.0), (names[0], "a", arms.JOINT, 7.0), (names[1], "a", arms.TEXT, 2.0),
            (names[1], "b", arms.TEXT, 3.0), (names[1], statistic.MEAN, arms.TEXT, 7.0))
    ])  # fmt: skip
    bits = [(names[1], "b", 0.3), (names[0], "a", 0.1), (names[1], "a", 0.2), (names[0], "b", 0.7)]
    added = pd.DataFrame(bits, columns=["setting", "outcome", "bits"])
    found = gain_map.cells(claims, added, SETTINGS)
    assert found[["added", "flips", "size", "log_size", "gain", "low", "high", "claimed"]].values.tolist() == [
        [0.1, 0.0, 900, pytest.approx(np.log10(900)), 1.0, 0.0, 3.0, False],
        [0.2, 0.3, 100, 2.0, 2.0, 1.0, 4.0, True],
        [0.3, 0.3, 100, 2.0, 3.0, 2.0, 5.0, False],
    ]


def test_the_key_of_the_map_stays_clear_of_the_mark_of_simulated_data():
    table = known_map(law).assign(low=-0.1, high=0.1, claimed=False)
    use_style()
    for cells in (table, table[:3]):
        assert touching(simulated_mark(map_figure(cells))) == []


def test_a_known_law_is_found_and_a_cell_is_said_by_others_alone():
    table = known_map(law)
    judged = gain_map.judge(table, 0, 199)
    assert judged["predicts"].all() and (judged["r2"] > 0.8).all() and (judged["rank"] > 0.8).all()
    assert (judged["r2_without"] < judged["r2"] - 0.1).all() and (judged["p"] == 1 / 200).all()
    assert gain_map.sentence(judged).startswith("The map predicts held-out cells: held out by outcome (4; 48 cells) R²")
    own = (table["outcome"] == "a").to_numpy()
    gains = table["gain"].to_numpy()
    for other in (np.where(own, 9.0, gains), np.where(own, gains, 9.0)):
        said, _ = gain_map.held_out(table, "outcome", np.column_stack([gains, other]))
        assert np.allclose(said[:, own, 0], said[:, own, 1]) == (other[own] == 9.0).all()
    assert said[1, own, 0] == pytest.approx(gains[~own].mean())


@pytest.mark.parametrize(
    ("law", "fails"),
    [
        (lambda **at: 0.0, ["outcome", "size"]),
        (lambda added, flips, log_size: 0.2 * flips - 0.02 * log_size, ["outcome", "size"]),  # the bits say nothing
        (lambda added, flips, log_size: 0.3 * added + 0.1 * (log_size - np.log10(300)) ** 2, ["size"]),
    ],
)
def test_a_map_without_a_law_of_its_axes_does_not_predict(law, fails):
    judged = gain_map.judge(known_map(law), 0, 199).set_index("by")
    assert [by for by in judged.index if not judged.loc[by, "predicts"]] == fails
    assert f"does not predict cells held out by {' or by '.join(fails)}:" in gain_map.sentence(judged.reset_index())


@pytest.mark.parametrize(
    ("r2", "without", "p", "predicts"),
    [(0.3, 0.2, 0.05, True), (0.3, 0.2, 0.051, False), (0.2, 0.3, 0.01, False), (-0.1, -0.2, 0.01, False)],
)
def test_each_condition_of_the_rule_counts(r2, without, p, predicts):
    assert gain_map.by_rule(r2, without, p) == predicts


def test_shuffled_gains_predict_no_more_often_than_they_may():
    rng, table, hits = np.random.default_rng(1), known_map(law), 0
    for _ in range(40):
        table["gain"] = rng.permutation(table["gain"].to_numpy())
        judged = gain_map.judge(table, 0, 39)
        assert not (judged["predicts"] & (judged["p"] > 0.05)).any()
        hits += (judged["p"] <= 0.05).to_numpy()
    assert (hits <= 5).all()  # 5 % of 40 are 2


def test_gains_change_places_with_their_whole_setting_and_outcome():
    table = known_map(law)
    lone = pd.DataFrame([{"setting": "lone", "outcome": "a"}, {"setting": "other", "outcome": "a"}])
    table = pd.concat([table, lone], ignore_index=True)
    at = gain_map.moved(table, 50, np.random.default_rng(0))
    assert all(
        (table[name].to_numpy()[at[:-2]] != table[[name]][:-2].to_numpy()).any() for name in ("setting", "outcome")
    )
    for column in at.T:
        assert sorted(column) == list(range(len(table)))
        came = table.loc[column].reset_index(drop=True)
        for name in ("setting", "outcome"):
            assert came.groupby(table[name])[name].nunique().max() == 1
        assert set(came["setting"][-2:]) == {"lone", "other"}
    assert len(np.unique(at, axis=1).T) > 40


def test_a_share_of_flips_that_was_not_fitted_is_not_asked_about():
    table = known_map(law)
    table = table[(table["size"] == 300) | (table["flips"] == 0)].reset_index(drop=True)
    _, asked = gain_map.held_out(table, "size", table[["gain"]].to_numpy())
    assert (asked == (table["flips"] == 0)).all()


def test_a_small_map_says_nothing():
    table = known_map(law)
    for small in (table[table["outcome"] < "c"], table[table["size"] < 900]):
        assert "too small" in gain_map.sentence(gain_map.judge(small.reset_index(drop=True), 0))

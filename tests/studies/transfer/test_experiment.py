"""The experiment on simulated studies, of which the answer is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pkd_utils.runs import paths
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import Parts
from pkd_utils.studies.transfer import arms, experiment, features, protocol, statistic

PLAN, _, _ = protocol.read(paths.resolve("book/protocols/case-or-label-smoke.yml"))


def plan(settings, **changed):
    base = {"image": "simulated", "text": "whole", "outcomes": ("finding",), "size": 100}
    made = {name: protocol.Setting(**{**base, **one}) for name, one in settings.items()}
    return replace(PLAN, settings=made, primary=next(iter(made)), **changed)


@pytest.fixture(scope="module")
def flipped():
    """A small ladder: data, protocol, partitions."""
    data = features.simulate(500, 3, width=20)
    settings = {"clean": {}, "flipped": {"flips": 0.3}, "another": {"flips": 0.3, "text": experiment.ANOTHER}}
    ladder = plan(settings, partitions=6, l2=(0.03, 0.3), weights=(0.0, 0.5, 1.0))
    return data, ladder, [experiment.run_partition(data, ladder, number) for number in range(6)]


def means(partitions, cell):
    values = [[p.values[cell][:, p.labels[cell] == k].mean(1) for k in (0, 1)] for p in partitions]
    return dict(zip(arms.ARMS, np.mean(values, axis=(0, 1)), strict=True))


def test_the_oracle_is_not_beaten_and_permuting_loses_the_case(flipped):
    at = means(flipped[2], ("flipped", "finding"))
    best = max(value for arm, value in at.items() if arm != arms.ORACLE)
    assert at[arms.ORACLE] >= best - 0.005
    assert at[arms.TEXT] > at[arms.IMAGE_ONLY] + 0.02
    assert at[arms.TEXT] > at[arms.PERMUTED] + 0.02
    clean = means(flipped[2], ("clean", "finding"))
    assert clean[arms.ORACLE] == pytest.approx(clean[arms.IMAGE_ONLY], abs=1e-6)  # the labels are the truth already
    assert at[arms.ORACLE] == pytest.approx(clean[arms.IMAGE_ONLY], abs=0.02)


def test_true_labels_are_tested_once_a_partition_and_each_arm_says_what_it_chose(flipped):
    data, _, partitions = flipped
    for partition in partitions:
        assert all(np.isfinite(values).all() for values in partition.values.values())
        assert (partition.labels["flipped", "finding"] == data.outcomes["finding"]).all()
    table = statistic.doses(partitions)
    assert len(table) == 3 * len(arms.ARMS) and table["weight"].between(0, 1).all()
    assert (table.loc[table["arm"] == arms.IMAGE_ONLY, "weight"] == 0).all()
    added = pd.concat([p.added for p in partitions]).groupby("setting")["bits"].mean()
    assert added["clean"] > 0.1  # the text knows the finding better than the picture


def test_an_uninformative_text_is_not_claimed_and_an_informative_one_is(flipped):
    data, ladder, partitions = flipped
    claims = statistic.claims(statistic.resampled(partitions, data.patients, 400, 0), ladder)
    claims = claims.set_index(["setting", "report"])
    assert claims.loc["flipped", "claimed"].all()
    assert not claims.loc["another", "claimed"].any()


def test_flips_are_of_the_stated_share_and_a_larger_share_flips_the_same_ones_too():
    assert experiment.flip_chance(0.3, np.arange(10.0), 10).mean() == pytest.approx(0.3)
    steep = experiment.flip_chance(0.3, np.arange(11.0), 11)
    assert (steep[0], steep[-1]) == pytest.approx((0.15, 0.45))
    assert (experiment.flip_chance(0.2, None, 4) == 0.2).all()
    big = features.simulate(1500, 0)
    seen = {}
    for kind in ("random", "image"):
        for share in (0.1, 0.3):
            one = plan({"a": {"flips": share, "kind": kind}})
            draw = experiment.Draw(big, one, 0, ("finding",))
            seen[share] = (draw.observed(one.settings["a"]) != draw.clean.to_numpy())[:, 0]
            assert seen[share].mean() == pytest.approx(share, abs=0.03)
        assert (seen[0.3] | ~seen[0.1]).all()


def test_subsets_are_nested_keep_the_classes_and_stay_in_the_training_folds(flipped):
    data, ladder, _ = flipped
    data = replace(data, patients=np.arange(len(data.patients)) // 2)
    draw = experiment.Draw(data, ladder, 0, ("finding",))
    small, large = draw.subset(1, 60), draw.subset(1, 120)
    assert set(small) < set(large) <= set(draw.parts[1]["train"])
    assert data.outcomes["finding"][large].mean() == pytest.approx(data.outcomes["finding"].mean(), abs=0.05)
    kept = [set(data.patients[rows]) for rows in draw.parts[1].values()]
    assert not kept[0] & kept[1] and not kept[0] & kept[2] and not kept[1] & kept[2]
    with pytest.raises(DataError, match="fewer than"):
        draw.subset(1, 499)


@pytest.mark.parametrize("workers", [1, 2])
def test_partitions_are_kept_and_read_again(workers, tmp_path):
    data, one = features.simulate(200, 0), plan({"a": {"size": 50}})
    first = experiment.run_all(data, one, Parts(tmp_path / "parts", "x"), 1)
    for part in ("partition-000.npz", "partition-001.npz"):
        (tmp_path / "parts" / part).unlink()
    again = experiment.run_all(data, one, Parts(tmp_path / "parts", "x"), workers)
    for a, b in zip(first, again, strict=True):
        assert all((a.values[cell] == b.values[cell]).all() for cell in a.values)
        assert a.choices.equals(b.choices) and a.added.equals(b.added)


@pytest.mark.parametrize("name", ["case-or-label", "case-or-label-demo", "case-or-label-embedded"])
def test_protocols_are_read_and_named_by_their_content(name):
    path = paths.resolve(f"book/protocols/{name}.yml")
    fixed, said, sha256 = protocol.read(path)
    assert fixed.settings[fixed.primary].flips == 0 and said["title"] and len(sha256) == 64
    semi = [s for n, s in fixed.settings.items() if n.startswith("semi-synthetic")]
    assert {s.text for s in semi} == {"whole", experiment.ANOTHER}


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [("primary: semi-synthetic", "primary: other", "primary"), ("[0.0, 1.0]", "[1.0]", "weights"),
     ("margin: 0.005", "margin: -1.0", "margin"), ("base:", "bases:", "base")],
)  # fmt: skip
def test_a_protocol_that_leaves_something_open_is_refused(tmp_path, old, new, match):
    text = paths.resolve("book/protocols/case-or-label-smoke.yml").read_text()
    (tmp_path / "p.yml").write_text(text.replace(old, new))
    with pytest.raises(DataError, match=match):
        protocol.read(tmp_path / "p.yml")

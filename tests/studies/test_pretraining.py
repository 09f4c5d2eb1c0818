"""Matched encoders: what they say of a picture, which may be compared, and contrasts that cross seeds with patients."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import Parts
from pkd_utils.studies import pretraining, stand_ins
from pkd_utils.studies.transfer import arms, experiment, statistic
from pkd_utils.studies.transfer.features import Data
from pkd_utils.studies.transfer.protocol import Protocol, Setting

SETTINGS = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 1, "heads": 2}
RUN = {"objective": "image_ssl", "seed": 0, "epochs": 2, "share": 0.5, "prepared_run": "a"}


def protocol(**changes):
    base = {"text": "whole", "outcomes": ("finding",), "size": 60}
    fixed = {"folds": 4, "partitions": 4, "teacher_folds": 3, "components": 8, "l2": (0.1, 1.0), "weights": (0.0, 1.0)}
    settings = {name: Setting(image=name, **base) for name in ("blind", "seeing", "same")}
    rest = {"temperatures": (1.0,), "tolerance": 1e-4, "margin": 0.01, "level": 0.95, "power": 0.8, "resamples": 400}
    return Protocol(settings=settings, primary="seeing", slope=1.0, seed=3, **fixed, **rest, **changes)


def data(seed, n=240):
    """One pretraining seed: an encoder that sees the finding, another that sees it as well, and one that is blind."""
    finding = np.random.default_rng(0).random(n) < 0.5
    rng = np.random.default_rng([1, seed])
    noise = {name: rng.standard_normal((n, 8)).astype(np.float32) for name in ("blind", "seeing", "same")}
    for name in ("seeing", "same"):
        noise[name][:, 0] += 2 * finding
    texts = {"whole": (np.c_[finding, finding] + rng.standard_normal((n, 2))).astype(np.float32)}
    return Data(np.arange(n), noise, texts, pd.DataFrame({"finding": finding.astype(float)}))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    plan, each = protocol(), [data(seed) for seed in range(4)]
    parts = Parts(tmp_path_factory.mktemp("parts"), "test")
    partitions = experiment.run_all(each, plan, parts, 1)
    return statistic.resampled(partitions, each[0].patients, plan.resamples, plan.seed)


def test_partitions_take_the_seeds_in_turn(tmp_path):
    plan, each = protocol(), [data(seed) for seed in range(2)]
    turned = experiment.run_all(each, plan, Parts(tmp_path / "a", "test"), 1)
    for number in (2, 3):
        alone = experiment.run_partition(each[number - 2], plan, number)
        for cell, values in alone.values.items():
            np.testing.assert_allclose(turned[number].values[cell], values, atol=1e-6)


def test_a_contrast_tells_what_is_there_and_nothing_else(found):
    pairs = [("seeing", "blind"), ("blind", "seeing"), ("same", "seeing")]
    table = pretraining.contrasts(found, pairs, protocol(), "finding")
    better, worse, same = table.itertuples()
    assert (better.reading, worse.reading) == ("better", "worse")
    assert better.difference == pytest.approx(-worse.difference) and better.low > 0.2
    assert same.low < 0 < same.high and same.reading in ("cannot tell", "no difference")
    assert table["p_holm"].min() >= table["p"].min()


def test_the_interval_of_a_contrast_holds_the_draws_of_seeds(found):
    """Seeds that differ in what they see widen it: patients alone would be too sure."""
    one, other = (pretraining.score(found[name, "finding"]) for name in ("seeing", "same"))
    drawn = (one - other).sampled()[1]
    assert drawn.std() > (one - other).patients.std()


def test_gains_are_contrasted_too_and_no_pair_against_itself_is_told(found):
    table = pretraining.contrasts(found, [("seeing", "seeing"), ("blind", "seeing")], protocol(), "finding", arms.TEXT)
    assert table["difference"].iloc[0] == 0 and table["p"].iloc[0] == 1
    gain = {name: found[name, "finding"].difference(arms.TEXT, arms.IMAGE_ONLY)[0] for name in ("blind", "seeing")}
    assert table["difference"].iloc[1] == pytest.approx(gain["blind"] - gain["seeing"])
    named = table.assign(kind="alignment", against="image_ssl")
    said = pretraining.sentences(named, "Gain")
    start = "Gain, 60 training studies, alignment with reports less image self-supervision: +0.000"
    assert len(said) == 2 and said[0].startswith(start)


def test_an_auroc_lies_in_its_range_with_its_interval(found):
    table = pretraining.aurocs(found, protocol())
    assert (table[["low", "high"]].to_numpy() >= 0).all() and (table[["low", "high"]].to_numpy() <= 1).all()
    kinds = {"blind": "untrained", "seeing": "masked", "same": "alignment"}
    figure = pretraining.kinds_figure(table.replace(kinds), ["finding"])
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["untrained", "masked image and report", "alignment with reports"]


def test_features_are_the_class_token_beside_the_mean_patch(tmp_path):
    model = pretraining.untrained_encoder(SETTINGS, 0)
    pixels = np.random.default_rng(0).integers(0, 255, (5, 16, 16), dtype=np.uint8)
    features = pretraining.token_features(model, pixels, batch_size=2)
    tokens = model.forward_features(((torch.from_numpy(pixels) / 255 - 0.5) / 0.25)[:, None].expand(-1, 3, -1, -1))
    np.testing.assert_allclose(features, torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1), atol=1e-6)


def test_untrained_encoders_are_where_training_starts_and_leave_torch_alone(tmp_path):
    still = {"epochs": 1, "learning_rate": 1e-12, "precision": "fp32"}
    config = stand_ins.PretrainingConfig(objective="image_ssl", **still, **SETTINGS)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 16, 16), dtype=np.uint8)
    state = torch.random.get_rng_state()
    first = pretraining.untrained_encoder(SETTINGS, 4)
    assert torch.equal(state, torch.random.get_rng_state())
    trained = stand_ins.pretrain(pixels, None, config, tmp_path, 4).backbone.state_dict()
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(tensor, trained[name], atol=1e-9, rtol=0)
    other = pretraining.untrained_encoder(SETTINGS, 5).state_dict()
    assert not torch.equal(first.state_dict()["patch_embed.proj.weight"], other["patch_embed.proj.weight"])


def test_runs_are_sorted_by_objective_and_seed():
    runs = [(f"{kind}_{seed}", RUN | {"objective": kind, "seed": seed, "run": f"{kind}_{seed}"})
            for kind in ("image_ssl", "masked") for seed in (1, 0)]  # fmt: skip
    found = pretraining.seeds_by_kind(runs)
    assert found == {"image_ssl": {1: "image_ssl_1", 0: "image_ssl_0"}, "masked": {1: "masked_1", 0: "masked_0"}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": "masked", "epochs": 3}, "b and a differ in epochs"),
        ({"objective": "masked", "share": 0.6}, "b and a differ in share"),
        ({}, "b and a are of one objective and seed"),
        ({"objective": "masked", "seed": 1}, r"masked has seeds \[1\], image_ssl \[0\]"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(changes, said):
    with pytest.raises(DataError, match=said):
        pretraining.seeds_by_kind([("a", RUN), ("b", RUN | changes)])


def test_a_share_of_patients_is_whole_patients_and_the_same_for_a_seed():
    patients = pd.Series([f"p{n % 40}" for n in range(100)])
    half = stand_ins.share_of(patients, 0.5, 0)
    assert patients[half].nunique() == 20 and not set(patients[half]) & set(patients[~half])
    assert (half == stand_ins.share_of(patients, 0.5, 0)).all()
    assert (half != stand_ins.share_of(patients, 0.5, 1)).any()
    shuffled = patients.sample(frac=1, random_state=0)
    assert set(shuffled[stand_ins.share_of(shuffled, 0.5, 0)]) == set(patients[half])
    assert stand_ins.share_of(patients, 1.0, 0).all()
    with pytest.raises(DataError, match="is none"):
        stand_ins.share_of(patients, 0.0, 0)


def test_margins_decide_between_no_difference_and_cannot_tell(found):
    pair, wide = [("same", "seeing")], replace(protocol(), margin=0.5)
    assert pretraining.contrasts(found, pair, wide, "finding")["reading"].item() == "no difference"
    narrow = replace(protocol(), margin=1e-6)
    assert pretraining.contrasts(found, pair, narrow, "finding")["reading"].item() == "cannot tell"

"""Randomisation touches exactly the stages it names, correlations equal scipy's, stability pairs the right images."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from pkd_utils.distillation.students import random_student
from pkd_utils.localization.saliency import saliency_maps
from pkd_utils.localization.sanity import randomisation, rank_correlations, seed_stability, stages, with_fresh_stages
from pkd_utils.runs.errors import DataError

BUILD = {"name": "vit", "image_size": 32, "patch_size": 8, "n_labels": 3, "width": 24, "depth": 3, "heads": 3}
STAGES = ["head", "block 2", "block 1", "block 0", "patch embedding"]


@pytest.fixture(scope="module")
def models():
    trained, fresh = random_student(BUILD, 0), random_student(BUILD, 1)
    with torch.no_grad():  # so that attention is far from flat, and no tensor equals the fresh one
        for tensor in trained.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2)) * 0.3)
    return trained, fresh


@pytest.fixture(scope="module")
def images():
    return torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(3))


def test_rank_correlations_equal_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.random((8, 5, 4)), rng.random((8, 5, 4))
    b[:4] += a[:4]
    a[2:6] = np.round(a[2:6] * 4)  # ties
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_correlations(a, b), expected, rtol=1e-12)
    np.testing.assert_allclose(rank_correlations(a, np.exp(a)), 1)
    np.testing.assert_allclose(rank_correlations(a, -a), -1)
    assert np.isnan(rank_correlations(np.ones((1, 5, 4)), a[:1])).all()


def test_every_tensor_is_in_one_stage(models):
    found = stages(models[0])
    assert list(found) == STAGES
    names = [name for group in found.values() for name in group]
    assert sorted(names) == sorted(models[0].state_dict()) and all(found.values())
    assert "norm.weight" in found["head"] and {"cls_token", "pos_embed"} <= set(found["patch embedding"])


def test_only_the_chosen_stages_change(models):
    trained, fresh = models
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    mixed = with_fresh_stages(trained, fresh, ["head", "block 1"])
    for stage, names in stages(trained).items():
        for name in names:
            source = fresh if stage in ("head", "block 1") else trained
            assert torch.equal(mixed.state_dict()[name], source.state_dict()[name]), name
    assert all(torch.equal(before[k], v) for k, v in trained.state_dict().items())


def test_cascading_ends_at_the_fresh_model_and_attention_ignores_the_head(models, images):
    trained, fresh = models

    def maps_of(model):
        blocks = {"last": {"method": "attention"}, "first": {"method": "attention", "layer": 0}}
        return saliency_maps(model, images, blocks)[0]

    table = randomisation(trained, fresh, maps_of).set_index(["map", "stage"])["rank_correlation"]
    assert table["last"].index.tolist() == STAGES
    assert table["last", "head"] == pytest.approx(1) and table["last", "block 2"] < 0.99
    # the first layer's attention changes only when its own block does
    np.testing.assert_allclose(table["first"][["head", "block 2", "block 1"]], 1)
    assert table["first", "block 0"] < 0.99
    end = rank_correlations(maps_of(trained)["last"], maps_of(fresh)["last"]).mean()
    assert table["last", "patch embedding"] == pytest.approx(end)


def test_independent_randomises_one_stage_at_a_time(models, images):
    trained, fresh = models

    def maps_of(model):
        return saliency_maps(model, images, {"first": {"method": "attention", "layer": 0}})[0]

    table = randomisation(trained, fresh, maps_of, "independent").set_index("stage")
    changed = rank_correlations(
        maps_of(trained)["first"], maps_of(with_fresh_stages(trained, fresh, ["patch embedding"]))["first"]
    )
    assert table.loc["patch embedding", "rank_correlation"] == pytest.approx(changed.mean())
    np.testing.assert_allclose(table.loc[["head", "block 1", "block 2"], "rank_correlation"], 1)
    assert (table["images"] == 6).all() and (table["undefined"] == 0).all()
    with pytest.raises(DataError, match="mode = 'both'"):
        randomisation(trained, fresh, maps_of, "both")


def test_seed_stability():
    rng = np.random.default_rng(1)
    base = rng.random((4, 3, 3))
    flat = base.copy()
    flat[0] = 1
    table = seed_stability({5: flat, 2: base, 3: base * 2}).set_index(["seed_a", "seed_b"])
    assert table.index.tolist() == [(2, 3), (2, 5), (3, 5)]
    np.testing.assert_allclose(table["rank_correlation"], 1)
    assert table["undefined"].tolist() == [0, 1, 1] and (table["images"] == 4).all()
    assert seed_stability({0: base}).empty
    mixed = base.copy()
    mixed[1] = -base[1]
    assert seed_stability({0: base, 1: mixed})["rank_correlation"][0] == pytest.approx(0.5)  # (3 - 1) / 4

"""Both ways to sort give the order of Python's own sort, whatever the keys, and so do the metrics that rest on them."""

import numpy as np
import pytest

from pkd_utils.localization import ranks
from pkd_utils.localization.attention import upsample_maps


def keys_of(kind, rng, n):
    if kind == "attention":
        values = upsample_maps(rng.dirichlet(np.ones(196), 1).reshape(1, 14, 14), (224, 224)).ravel()[:n]
        return values.view(np.uint32) << np.uint32(1) | (rng.random(n) < 0.2)
    spread = {"few values": 3, "16 bits": 2**16, "31 bits": 2**31, "63 bits": 2**63}.get(kind)
    if spread:
        return rng.integers(5, 5 + spread, n, dtype=np.uint64 if spread > 2**32 else np.uint32)
    outlier = rng.integers(7, 7 + 2 * n, n, dtype=np.uint32)  # all but one share their leading bits
    outlier[n // 2] = 2**31
    return outlier


@pytest.mark.parametrize("sort", [ranks.sort_directly, ranks.sort_by_radix])
@pytest.mark.parametrize("kind", ["attention", "few values", "16 bits", "31 bits", "63 bits", "outlier"])
@pytest.mark.parametrize("n", [1, ranks.FEW, ranks.FEW + 1, 11_111])
def test_sorts_whatever_the_keys(kind, n, sort):
    keys = keys_of(kind, np.random.default_rng(n), n)
    want = sorted(keys.tolist())
    sort(keys)
    assert keys.tolist() == want


@pytest.mark.parametrize("kind", ["attention", "signed", "ties"])
def test_results_do_not_depend_on_the_sort(kind):
    rng = np.random.default_rng(3)
    maps = {
        "attention": upsample_maps(rng.dirichlet(np.ones(196), 2).reshape(2, 14, 14), (100, 100)),
        "signed": rng.standard_normal((2, 100, 100)).astype(np.float32),
        "ties": rng.integers(0, 9, (2, 100, 100)).astype(np.float32),
    }[kind]
    masks = rng.random(maps.shape) < 0.1
    found = []
    for sort in (ranks.sort_directly, ranks.sort_by_radix):
        rows = ranks.RowRanks(10_000, sort)
        found.append([rows.both(*pair, pair[0].min()) for pair in zip(maps, masks, strict=True)])
        alone = [rows.auroc(*pair, pair[0].min()) for pair in zip(maps, masks, strict=True)]
        assert alone == [auroc for auroc, _ in found[-1]]
    assert found[0] == found[1]


def test_the_fastest_sort_is_chosen_once():
    assert ranks.fastest_sort() in (ranks.sort_directly, ranks.sort_by_radix)
    assert ranks.fastest_sort() is ranks.fastest_sort()

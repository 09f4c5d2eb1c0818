"""Encoders on inputs of another side: grid, preprocessing, position embeddings, identity."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pkd_utils.encoders import load_image_encoder
from pkd_utils.runs.errors import DataError


@pytest.mark.parametrize(
    ("name", "side", "grid", "resize"),
    [("dinov2_s14", 56, (4, 4), 56), ("c2l", 96, (3, 3), 96), ("efficientnet_lite0", 64, (2, 2), 73)],
)
def test_tokens_keep_their_size_in_pixels(name, side, grid, resize):
    small = load_image_encoder(name, "random", input_size=side)
    assert (small.grid, small.input_size, small.preprocessing.resize) == (grid, side, resize)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120), dtype=np.uint8))
    assert small.tokens(small.preprocess(image)[None]).shape == (1, grid[0] * grid[1], small.width)


def test_position_embeddings_are_interpolated_and_the_rest_is_the_same():
    whole, small = (load_image_encoder("dinov2_s14", "random", input_size=side) for side in (None, 56))
    same = load_image_encoder("dinov2_s14", "random", input_size=224)
    assert whole.identity == same.identity != small.identity
    a, b = whole.network.state_dict(), small.network.state_dict()
    assert [name for name in a if not torch.equal(a[name], b[name])] == ["pos_embed"]
    assert torch.equal(a["pos_embed"][:, :1], b["pos_embed"][:, :1])
    published = load_image_encoder("dinov2_s14", "random", input_size=518).network.pos_embed[:, 1:]
    square = published.unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    expected = F.interpolate(square, size=(4, 4), mode="bicubic", align_corners=False)
    assert torch.allclose(b["pos_embed"][:, 1:], expected.flatten(2).transpose(1, 2), atol=1e-6)


def test_sides_that_tokens_do_not_fill():
    for name, side, words in (
        ("dinov2_s14", 100, "multiple of 14 pixels, which is what a token covers, not 100"),
        ("c2l", 0, "multiple of 32 pixels"),
        ("rad_dino", 224 + 7, "multiple of 14 pixels"),
    ):
        with pytest.raises(DataError, match=words):
            load_image_encoder(name, "random", input_size=side)
    with pytest.raises(DataError, match="upsample=False with input_size"):
        load_image_encoder("gloria", "random", input_size=448)

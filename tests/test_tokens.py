"""Tokens: stored once, continued after a kill, gathered right, the same live; reports beside them."""

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pkd_utils._token_views import Crops
from pkd_utils.encoders import transforms
from pkd_utils.encoders.facts import HALF, Feature, Preprocessing
from pkd_utils.token_encoding import encode_images

SIDE, GRID, WIDTH = 16, (4, 4), 6


class TinyEncoder:
    """The interface of ImageEncoder: patch means times a vector, image by image, so batches change no bit."""

    def __init__(self, class_token=True, weights=0, scale=1.0, pause=0.0):
        self.facts = SimpleNamespace(name="tiny", class_token=class_token)
        self.feature, self.grid, self.width = Feature(GRID, WIDTH, "patch means"), GRID, WIDTH
        self.input_size, self.preprocessing = SIDE, Preprocessing(18, SIDE, HALF)
        self.vector = torch.from_numpy(np.random.default_rng(weights).normal(size=WIDTH).astype(np.float32)) * scale
        self.identity, self.pause, self.passes, self.seen = f"tiny-{class_token}-{weights}-{scale}", pause, 0, 0

    def preprocess(self, image, crop=None):
        return transforms.preprocess(image, self.preprocessing, crop)

    def encode(self, batch):
        time.sleep(self.pause)
        self.passes, self.seen = self.passes + 1, self.seen + len(batch)
        patches = batch.mean(1).unfold(1, 4, 4).unfold(2, 4, 4).mean((-1, -2)).flatten(1)
        patches = patches[:, :, None] * self.vector
        cls = patches.amax(1) if self.facts.class_token else None
        return SimpleNamespace(patches=patches, cls=cls)

    def tokens(self, batch):
        return self.encode(batch).patches


def write_images(folder: Path, count: int = 7) -> tuple[list[str], list[Path]]:
    """Grey noise images of several sizes, as JPEG."""
    rng = np.random.default_rng(5)
    ids, files = [f"i{n:02d}" for n in range(count)], [folder / f"i{n:02d}.jpg" for n in range(count)]
    for n, path in enumerate(files):
        Image.fromarray(rng.integers(0, 256, (40 + n, 50 - n), dtype=np.uint8)).save(path, quality=95)
    return ids, files


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def quiet(*arguments, **options):
    return encode_images(*arguments, progress=False, **options)


def test_stored_tokens_are_the_encoders_rounded_to_half(images, tmp_path):
    ids, files = images
    encoder, crops = TinyEncoder(), Crops(seed=3)
    store = quiet(encoder, ids, files, tmp_path / "tokens", views=2, crops=crops, batch_size=4)
    assert (store.rows, store.tokens_per_image, store.width, store.views) == (7, 16, WIDTH, 2)
    for row, (name, file) in enumerate(zip(ids, files, strict=True)):
        with Image.open(file) as image:
            for view in range(3):
                box = crops.box(name, view, image.size)
                assert (box is None) == (view == 0)
                made = encoder.encode(encoder.preprocess(image, crop=box)[None])
                assert torch.equal(store.batch([row], view)[0], made.patches[0].half())
                assert torch.equal(store.cls([row], view)[0], made.cls[0].half())
    assert not torch.equal(store.batch([0], 1), store.batch([0], 2))

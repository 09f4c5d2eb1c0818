"""Small pictures in files."""

import numpy as np
import pytest
from PIL import Image

SIZES = [(200, 160), (90, 130), (64, 64), (331, 517)]


def picture(width, height, seed=0):
    """Smooth picture, so that resampling filters agree."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 5), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def files(tmp_path):
    paths = []
    for i, size in enumerate(SIZES):
        path = tmp_path / f"image{i}.{'jpg' if i % 2 == 0 else 'png'}"
        picture(*size, seed=i).save(path, quality=95)
        paths.append(path)
    return paths

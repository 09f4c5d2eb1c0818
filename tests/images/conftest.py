"""Small pictures in files, and processes that are killed."""

import multiprocessing
import time

import numpy as np
import psutil
import pytest
from PIL import Image

SIZES = [(200, 160), (90, 130), (64, 64), (331, 517)]


def picture(width, height, seed=0):
    """Smooth picture, so that resampling filters agree."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 5), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def kill_when(ready, function, *arguments):
    """Kill a process that calls the function, as soon as `ready()`; its workers must not outlive it."""
    child = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    child.start()
    deadline = time.time() + 60
    while not ready() and time.time() < deadline:
        time.sleep(0.005)
    family = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    child.join()
    assert not psutil.wait_procs(family, timeout=20)[1], "workers must not outlive their parent"


@pytest.fixture
def files(tmp_path):
    paths = []
    for i, size in enumerate(SIZES):
        path = tmp_path / f"image{i}.{'jpg' if i % 2 == 0 else 'png'}"
        picture(*size, seed=i).save(path, quality=95)
        paths.append(path)
    return paths

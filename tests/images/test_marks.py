"""Drawn marks are found and painted over; echoes and the rest of the picture stay as they are."""

import numpy as np
import pytest

from pkd_utils.images.marks import drawn_marks, paint_over


@pytest.fixture
def echoes():
    """Speckle, bright horizontal streaks, a bright patch and a scanner's blue tint."""
    rng = np.random.default_rng(0)
    grey = rng.integers(20, 140, (120, 160))
    grey[30:33, 20:90] = 240
    grey[70:90, 100:130] = 250
    return np.stack([grey, grey, np.minimum(grey + 25, 255)], axis=2).astype(np.uint8)


def drawn(picture, kind):
    """Draw one mark around (60, 50); where it is."""
    marks, reach = np.zeros(picture.shape[:2], bool), np.arange(-6, 7)
    if kind == "plus":
        marks[60, 50 + reach] = marks[60 + reach, 50] = True
    elif kind == "cross":
        marks[60 + reach, 50 + reach] = marks[60 + reach, 50 - reach] = True
    else:
        marks[60:62, 50:52] = True
    picture = picture.copy()
    picture[marks] = (10, 250, 10) if kind == "green dot" else 255
    return picture, marks


def test_echoes_are_no_marks(echoes):
    assert not drawn_marks(echoes).any()
    assert paint_over(echoes, drawn_marks(echoes)) is echoes


@pytest.mark.parametrize("kind", ["plus", "cross", "green dot"])
def test_marks_are_found_and_nothing_else_changes(echoes, kind):
    picture, marks = drawn(echoes, kind)
    assert (drawn_marks(picture) == marks).all()
    painted = paint_over(picture, marks)
    assert not drawn_marks(painted).any() and painted[marks].max() < 200
    rows, columns = np.nonzero(marks)
    near = np.zeros_like(marks)
    near[rows.min() - 1 : rows.max() + 2, columns.min() - 1 : columns.max() + 2] = True
    assert (painted[~near] == echoes[~near]).all()

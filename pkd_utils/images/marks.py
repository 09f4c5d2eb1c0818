"""What a scanner draws into a picture: calipers and dots. Found by colour and by shape, and painted over."""

import numpy as np
from scipy import ndimage

COLOUR = 60  # largest minus smallest channel; the tints of ultrasound scanners stay below about 30
BRIGHT = 200  # of 255, of every channel
ARM, GAP = 9, 3  # pixels: a stroke is at least so long; so far off the middle, between the strokes, it is dark
THICK, SPAN, EVEN = 4, 41, 8  # a stroke is thinner, a mark no wider; standard deviation of its brightness, at most


def drawn_marks(picture: np.ndarray) -> np.ndarray:
    """Which pixels are drawn: coloured ones, and bright crosses, upright or slanted.

    A cross is two thin bright strokes of `ARM` pixels or more that meet, while all four places between them, `GAP`
    pixels off, are not bright; it is small and evenly bright. An echo is a streak, which has no second stroke, or a
    patch, which fills what lies between, and its brightness varies.

    Parameters
    ----------
    picture : uint8 (H, W, 3)

    Returns
    -------
    bool (H, W)
    """
    marks = np.ptp(picture.astype(int), axis=2) > COLOUR
    bright = picture.min(axis=2) >= BRIGHT
    thin = bright & ~ndimage.binary_opening(bright, np.ones((THICK, THICK)))
    line, slant = np.ones((1, ARM), bool), np.eye(ARM, dtype=bool)
    upright, corners = np.zeros((2 * GAP + 1, 2 * GAP + 1), bool), np.zeros((2 * GAP + 1, 2 * GAP + 1), bool)
    upright[[0, -1, GAP, GAP], [GAP, GAP, 0, -1]] = corners[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    for strokes, between in (((line, line.T), corners), ((slant, slant[::-1]), upright)):
        one, other = (ndimage.binary_opening(thin, stroke) for stroke in strokes)
        middle = one & other & ~ndimage.binary_dilation(bright, between)
        found, _ = ndimage.label(ndimage.binary_propagation(middle, np.ones((3, 3)), mask=one | other), np.ones((3, 3)))
        for number, place in enumerate(ndimage.find_objects(found), 1):
            mark = found[place] == number
            if max(mark.shape) <= SPAN and picture[place][mark].std() <= EVEN:
                marks[place] |= mark
    return marks


def paint_over(picture: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """The picture (uint8, (H, W, 3)) with marks, and the pixel around them, replaced by the nearest other pixel."""
    if not marks.any():
        return picture
    wide = ndimage.binary_dilation(marks, np.ones((3, 3)))
    rows, columns = ndimage.distance_transform_edt(wide, return_distances=False, return_indices=True)
    return picture[rows, columns]

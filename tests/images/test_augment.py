"""Boxes and masks move with the image; without movement nothing changes."""

import pytest
import torch

from pkd_utils.images.augment import _sampling_grid, apply_augmentation, augment, draw_augmentation, normalise
from pkd_utils.runs.errors import DataError

SIZE = 64
MOVES = [
    {"degrees": 20.0},
    {"translate": 0.15},
    {"scale": (0.7, 1.3)},
    {"flip": True},
    {"degrees": 15.0, "translate": 0.1, "scale": (0.85, 1.2), "flip": True},
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rectangles(n=12):
    """Images with one white rectangle each, its mask and its box."""
    images = torch.zeros(n, SIZE, SIZE, dtype=torch.uint8)
    boxes = []
    for i in range(n):
        x0, y0, x1, y1 = 18 + i, 20, 34 + i, 30 + i
        images[i, y0:y1, x0:x1] = 255
        boxes.append(torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32))
    return images, images > 0, boxes


@pytest.mark.parametrize("moves", MOVES)
def test_mask_and_box_follow_the_image(moves):
    images, masks, boxes = rectangles()
    got = augment(images, generator(), **moves, masks=masks, boxes=boxes, mean=(0.0,), std=(1.0,))
    assert got.images.shape == (12, 1, SIZE, SIZE) and got.masks.dtype == torch.bool
    moved = False
    for i in range(12):
        white = got.images[i, 0] >= 0.5
        assert (white ^ got.masks[i]).sum() <= 2
        ys, xs = torch.nonzero(white, as_tuple=True)
        x0, y0, x1, y1 = got.boxes[i][0].tolist()
        # The hull of the corners holds every white pixel, and a rotated corner's tip may be less than half a pixel.
        assert xs.min() >= x0 - 1 and ys.min() >= y0 - 1 and xs.max() + 1 <= x1 + 1 and ys.max() + 1 <= y1 + 1
        tip = 3.0 if "degrees" in moves else 1.0
        assert max(xs.min() - x0, ys.min() - y0, x1 - xs.max() - 1, y1 - ys.max() - 1) <= tip
        moved |= (got.boxes[i] - boxes[i]).abs().max() > 1
    assert moved


def test_known_shift_moves_right_and_down_by_whole_pixels():
    images = torch.randint(0, 256, (1, SIZE, SIZE), dtype=torch.uint8, generator=generator())
    draw = draw_augmentation(1, generator())
    draw.matrix[0, :, 2] = torch.tensor([-2 * 5 / SIZE, -2 * 3 / SIZE])  # look 5 left and 3 up
    box = [torch.tensor([[10.0, 10, 20, 20], [60, 0, 64, 4]])]
    got = apply_augmentation(images, draw, (0.0,), (1.0,), boxes=box)
    torch.testing.assert_close(got.images[0, 0, 3:, 5:] * 255, images[0, :-3, :-5].float(), atol=1e-2, rtol=0)
    assert (got.images[0, 0, :3] == 0).all()
    torch.testing.assert_close(got.boxes[0], torch.tensor([[15.0, 13, 25, 23], [64, 3, 64, 7]]), atol=1e-4, rtol=0)


def test_no_change_is_normalisation():
    images = torch.randint(0, 256, (5, SIZE, SIZE), dtype=torch.uint8, generator=generator())
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    want = (images[:, None] / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(normalise(images, mean, std), want, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(augment(images, generator(), mean=mean, std=std).images, want, atol=2e-4, rtol=1e-4)


def test_brightness_and_contrast():
    images = torch.full((200, 4, 4), 200, dtype=torch.uint8)
    draw = draw_augmentation(200, generator(), brightness=0.2, contrast=0.3)
    assert draw.gain.min() < 0.75 and draw.gain.max() > 1.25 and draw.bias.min() < -0.15 and draw.bias.max() > 0.15
    got = apply_augmentation(images, draw, (0.4,), (0.2,)).images
    want = ((200 / 255 - 0.4) * draw.gain + draw.bias) / 0.2
    torch.testing.assert_close(got, want.view(-1, 1, 1, 1).expand(got.shape), atol=1e-4, rtol=1e-4)


def test_draw_is_within_its_limits_and_reproducible():
    draw = draw_augmentation(500, generator(3), degrees=10, translate=0.1, scale=(0.8, 1.25))
    determinant = torch.linalg.det(draw.matrix[:, :, :2])
    assert (determinant > 0).all()  # no mirror unless asked for
    zoom = determinant**-0.5
    assert zoom.min() >= 0.8 - 1e-5 and zoom.max() <= 1.25 + 1e-5 and zoom.std() > 0.1
    angle = torch.rad2deg(torch.atan2(draw.matrix[:, 0, 1], draw.matrix[:, 0, 0]))
    assert angle.abs().max() <= 10.001 and angle.std() > 5
    again = draw_augmentation(500, generator(3), degrees=10, translate=0.1, scale=(0.8, 1.25))
    assert all(torch.equal(a, b) for a, b in zip(draw, again, strict=True))
    # turning one setting off leaves the random stream of the others where it was
    other = draw_augmentation(500, generator(3), degrees=10, translate=0.1, scale=(0.8, 1.25), contrast=0.5)
    assert torch.equal(draw.matrix, other.matrix)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: augment(i.float(), generator()), "uint8"),
        (lambda i: augment(i[:, :, :9], generator()), "uint8"),
        (lambda i: augment(i, generator(), scale=(0.0, 1.0)), "scale"),
        (lambda i: augment(i, generator(), degrees=-1), "negative"),
        (lambda i: augment(i, generator(), contrast=1.0), "contrast"),
        (lambda i: augment(i, generator(), masks=torch.zeros(1, 2, 2)), "masks"),
        (lambda i: augment(i, generator(), boxes=[]), "boxes for 0 images"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(DataError, match=message):
        call(torch.zeros(3, 16, 16, dtype=torch.uint8))


def test_sampling_grid_equals_torch():
    matrix = draw_augmentation(9, generator(), degrees=30, translate=0.2, scale=(0.5, 2.0), flip=True).matrix
    want = torch.nn.functional.affine_grid(matrix, [9, 1, 48, 48], align_corners=False)
    torch.testing.assert_close(_sampling_grid(matrix, 48), want, atol=2e-6, rtol=0)

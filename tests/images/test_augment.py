"""Where pixels go, and how the draw behaves; without movement nothing changes."""

import pytest
import torch

from pkd_utils.images.augment import apply_augmentation, draw_augmentation, normalise
from pkd_utils.runs.errors import DataError

SIZE = 64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_known_shift_moves_right_and_down_by_whole_pixels():
    images = torch.randint(0, 256, (1, SIZE, SIZE), dtype=torch.uint8, generator=generator())
    draw = draw_augmentation(1, generator())
    draw.matrix[0, :, 2] = torch.tensor([-2 * 5 / SIZE, -2 * 3 / SIZE])  # look 5 left and 3 up
    got = apply_augmentation(images, draw, (0.0,), (1.0,))
    torch.testing.assert_close(got[0, 0, 3:, 5:] * 255, images[0, :-3, :-5].float(), atol=1e-2, rtol=0)
    assert (got[0, 0, :3] == 0).all()


def test_pixels_are_those_of_torchs_own_grid():
    images = torch.randint(0, 256, (9, 48, 48), dtype=torch.uint8, generator=generator())
    draw = draw_augmentation(9, generator(), degrees=30, translate=0.2, scale=(0.5, 2.0))
    grid = torch.nn.functional.affine_grid(draw.matrix, [9, 1, 48, 48], align_corners=False)
    want = torch.nn.functional.grid_sample(images[:, None] / 255, grid, align_corners=False)
    torch.testing.assert_close(apply_augmentation(images, draw, (0.0,), (1.0,)), want, atol=1e-4, rtol=0)


def test_no_change_is_normalisation():
    images = torch.randint(0, 256, (5, SIZE, SIZE), dtype=torch.uint8, generator=generator())
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    want = (images[:, None] / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(normalise(images, mean, std), want, atol=2e-6, rtol=1e-6)
    same = apply_augmentation(images, draw_augmentation(5, generator()), mean, std)
    torch.testing.assert_close(same, want, atol=2e-4, rtol=1e-4)


def test_brightness_and_contrast():
    images = torch.full((200, 4, 4), 200, dtype=torch.uint8)
    draw = draw_augmentation(200, generator(), brightness=0.2, contrast=0.3)
    assert draw.gain.min() < 0.75 and draw.gain.max() > 1.25 and draw.bias.min() < -0.15 and draw.bias.max() > 0.15
    got = apply_augmentation(images, draw, (0.4,), (0.2,))
    want = ((200 / 255 - 0.4) * draw.gain + draw.bias) / 0.2
    torch.testing.assert_close(got, want.view(-1, 1, 1, 1).expand(got.shape), atol=1e-4, rtol=1e-4)


def test_draw_is_within_its_limits_and_reproducible():
    draw = draw_augmentation(500, generator(3), degrees=10, translate=0.1, scale=(0.8, 1.25))
    determinant = torch.linalg.det(draw.matrix[:, :, :2])
    assert (determinant > 0).all()  # no mirror
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
    ("wrong", "message"),
    [
        ({"scale": (0.0, 1.0)}, "scale.0 = 0.0"),
        ({"scale": (1.2, 0.8)}, "low <= high"),
        ({"degrees": -1}, "degrees = -1"),
        ({"translate": float("nan")}, "translate = nan"),
        ({"contrast": 1.0}, "contrast = 1.0"),
    ],
)
def test_bad_settings(wrong, message):
    with pytest.raises(DataError, match=message):
        draw_augmentation(3, generator(), **wrong)

"""Shrinking and enlarging as PIL does it, blurring as torchvision does, noising as the forward process does."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.augmentation import corners, crops, gaussian_blur, larger, noised, smaller
from unclip.diffusion import Schedule, process
from unclip.openclip.library import import_open_clip


@pytest.fixture
def images():
    return torch.rand(3, 3, 24, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def resized(images, size, how):
    """By PIL, in floats: channel by channel."""
    planes = [Image.fromarray(plane.numpy(), "F").resize(size, how) for plane in images.flatten(0, 1)]
    return torch.from_numpy(np.stack([np.asarray(p) for p in planes])).unflatten(0, images.shape[:2])


@pytest.mark.parametrize("scale", [2, 4])
def test_sizes_change_as_pil_changes_them(images, scale):
    torch.testing.assert_close(smaller(images, scale), resized(images, (16 // scale, 24 // scale), Image.Resampling.BOX))
    enlarged = resized(images, (16 * scale, 24 * scale), Image.Resampling.BICUBIC)
    torch.testing.assert_close(larger(images, scale), enlarged, rtol=0, atol=1e-5)


def test_the_blur_is_torchvisions(images):
    import_open_clip()  # what it does for torchvision beside PyTorch's CPU build, this import needs as well
    from torchvision.transforms.functional import gaussian_blur as theirs

    sigma = torch.tensor([0.4, 0.9, 1.3])
    side = 2 * math.ceil(3 * 1.3) + 1
    expected = torch.cat([theirs(images[k : k + 1], [side, side], [s, s]) for k, s in enumerate(sigma.tolist())])
    torch.testing.assert_close(gaussian_blur(images, sigma), expected, rtol=0, atol=1e-5)


def test_no_blur_leaves_a_picture_as_it_is(images):
    assert torch.equal(gaussian_blur(images, torch.zeros(3)), images)
    one = gaussian_blur(images, torch.tensor([1.0, 0.0, 0.5]))
    torch.testing.assert_close(one[1], images[1])
    assert (one - images)[[0, 2]].abs().amax((1, 2, 3)).min() > 0.1
    wider = gaussian_blur(images, torch.tensor([1.0, 0.0, 0.5]), widest=1.3)
    torch.testing.assert_close(wider, one, rtol=0, atol=2e-2)  # three deviations hold 99.7 %
    assert torch.equal(gaussian_blur(images, torch.tensor([1.0, 0.0, 0.5]), widest=1.0), one)


def test_a_blur_wider_than_the_picture_is_refused(images):
    with pytest.raises(ValueError, match="too wide"):
        gaussian_blur(images, torch.full((3,), 6.0))


def test_noise_is_that_of_the_forward_process(images):
    schedule, eps = Schedule.cosine(), torch.randn(3, 3, 24, 16)
    t = torch.tensor([10, 100, 300])
    level = (1 - schedule.alpha_bar_at(t)).sqrt()
    torch.testing.assert_close(noised(images, level, eps), process.q_sample(schedule, images, t, eps))


def test_crops_are_squares_of_the_picture_on_the_step():
    """Pictures whose pixels say where they are."""
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(16.0), indexing="ij")
    images = torch.stack([rows, columns]).expand(200, 2, 24, 16)
    cut = crops(images, 8, 4, corners(images, 8, 4, torch.Generator().manual_seed(0)))
    assert cut.shape == (200, 2, 8, 8)
    corner = cut[:, :, 0, 0]
    assert torch.equal(cut - corner[:, :, None, None], images[:, :, :8, :8])
    assert {tuple(c) for c in corner.tolist()} == {(y, x) for y in range(0, 17, 4) for x in (0, 4, 8)}


@pytest.mark.parametrize("side, step", [(8, 4), (7, 3), (16, 1), (5, 20)])
def test_crops_are_those_of_a_loop_with_the_same_draws(images, side, step):
    draws = torch.Generator().manual_seed(5)
    rows, columns = (torch.randint((n - side) // step + 1, (3,), generator=draws) * step for n in (24, 16))
    expected = [image[:, y : y + side, x : x + side] for image, y, x in zip(images, rows, columns)]
    cut = crops(images, side, step, corners(images, side, step, torch.Generator().manual_seed(5)))
    assert torch.equal(cut, torch.stack(expected)) and cut.is_contiguous()
    torch.manual_seed(5)
    assert torch.equal(crops(images, side, step, corners(images, side, step)), cut)


def test_a_crop_of_the_small_picture_shows_the_same_place(images):
    place = corners(images, 8, 4, torch.Generator().manual_seed(5))
    assert torch.equal(crops(smaller(images, 4), 2, 1, place), smaller(crops(images, 8, 4, place), 4))

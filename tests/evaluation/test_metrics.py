"""Every metric against the library that people trust for it, and against a closed form where there is one."""

import math

import pytest
import torch
from prdc import compute_prdc
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from unclip.evaluation.metrics import (
    clip_score,
    cmmd,
    coverage,
    density,
    frechet_distance,
    kernel_distance,
    precision,
    recall,
)


@pytest.fixture
def sets():
    """Two clouds that overlap in part, of different sizes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150, 6, generator=generator)
    return x, torch.randn(130, 6, generator=generator) * 1.4 + 0.8


def spread(n, std, mean, generator):
    """n samples (n, D) whose mean and covariance are exactly `mean` and diag(std^2)."""
    x = torch.randn(n, len(std), generator=generator, dtype=torch.float64)
    x = x - x.mean(0)
    whitened = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return whitened * torch.tensor(std, dtype=torch.float64) + torch.tensor(mean, dtype=torch.float64)


# ---- Frechet and kernel distance -------------------------------------------------------------------------------------

def test_frechet_distance_of_axis_aligned_clouds_is_a_sum_over_axes():
    generator = torch.Generator().manual_seed(0)
    x, y = spread(50, [1.0, 2.0, 0.5], [0, 1, 2], generator), spread(80, [3.0, 2.0, 0.1], [0.5, 1, 0], generator)
    expected = 0.5**2 + 2**2 + (1 - 3) ** 2 + 0 + (0.5 - 0.1) ** 2
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_is_torchmetrics(sets):
    x, y = (z.double() for z in sets)
    expected = _compute_fid(x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T))
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-6)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_fewer_samples_than_features():
    """Covariances without full rank, as 200 pictures and 512 features give."""
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(x, x + 1) == pytest.approx(20, rel=1e-5)
    assert frechet_distance(torch.randn(5, 1), torch.randn(5, 1)) >= 0


def test_kernel_distance_is_torchmetrics(sets):
    x, y = sets[0][:130].double(), sets[1].double()  # theirs wants equal sizes
    assert kernel_distance(x, y) == pytest.approx(float(poly_mmd(y, x)), rel=1e-9)


def test_kernel_distance_is_unbiased():
    """Its mean over many pairs of sets from one distribution is zero, of any sizes."""
    generator = torch.Generator().manual_seed(0)
    values = [kernel_distance(torch.randn(9, 3, generator=generator), torch.randn(14, 3, generator=generator)) for _ in range(2000)]
    values = torch.tensor(values)
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(2000)
    assert values.min() < 0


def test_cmmd_is_the_sum_over_all_pairs(sets):
    x, y = (z / z.norm(dim=1, keepdim=True) for z in (sets[0][:20].double(), sets[1][:15].double()))

    def mean(a, b):
        return sum(math.exp(-float((p - q).square().sum()) / 200) for p in a for q in b) / (len(a) * len(b))

    expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert cmmd(sets[0][:20] * 7, sets[1][:15]) == pytest.approx(expected, rel=1e-6)  # lengths do not matter
    assert cmmd(x, x) == pytest.approx(0, abs=1e-9)


# ---- precision, recall, density, coverage ----------------------------------------------------------------------------

@pytest.mark.parametrize("k", [3, 5])
def test_neighbourhoods_are_those_of_prdc(sets, k):
    x, y = sets
    theirs = compute_prdc(real_features=y.numpy(), fake_features=x.numpy(), nearest_k=k)
    for metric in (precision, recall, density, coverage):
        assert metric(x, y, k).double().mean().item() == pytest.approx(theirs[metric.__name__], abs=1e-9)
    assert len(precision(x, y)) == len(density(x, y)) == 150 and len(recall(x, y)) == len(coverage(x, y)) == 130


def test_the_same_pictures_are_precise_and_cover_everything(sets):
    x, _ = sets
    assert precision(x, x).all() and recall(x, x).all() and coverage(x, x).all()
    # A sample lies in its own ball and in those of which it is a neighbour: k + 1 of them on average, less their edges.
    assert density(x, x, k=5).mean() == pytest.approx(1, abs=1e-9)


def test_one_mode_of_two_is_precise_but_recalls_half():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(100, 4, generator=generator), torch.randn(100, 4, generator=generator) + 100
    reference = torch.cat([left, right])
    drawn = torch.randn(200, 4, generator=generator)
    assert precision(drawn, reference).double().mean() > 0.8
    assert recall(drawn, reference)[:100].double().mean() > 0.8 and recall(drawn, reference)[100:].max() == 0
    assert coverage(drawn, reference)[100:].max() == 0


@pytest.mark.parametrize("metric, least", [(frechet_distance, 2), (kernel_distance, 2), (precision, 4), (recall, 4),
                                           (density, 6), (coverage, 6)])  # fmt: skip
def test_too_few_pictures(metric, least):
    x = torch.randn(least, 3, generator=torch.Generator().manual_seed(0))
    metric(x, x)
    with pytest.raises(ValueError, match=f"got .*{least - 1}"):
        metric(x[:-1], x[:-1])


# ---- CLIP score ------------------------------------------------------------------------------------------------------

def test_clip_score_is_a_hundred_times_the_cosine():
    image, text = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0]]), torch.tensor([[6.0, 8.0], [0.0, 5.0], [-1.0, 0.0]])
    assert clip_score(image, text).tolist() == pytest.approx([100, 0, 0])

import math

import pytest
import torch

from unclip.evaluation.bootstrap import mean_figure, pairs_figure, set_figure, wilson
from unclip.evaluation.metrics import density, frechet_distance, kernel_distance


def test_the_interval_of_a_mean_is_the_normal_one():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 3 + 5
    figure = mean_figure(values, rounds=2000)
    half = 1.96 * values.std().item() / math.sqrt(4000)
    assert figure.value == pytest.approx(values.mean().item())
    assert figure.low == pytest.approx(figure.value - half, abs=0.15 * half)
    assert figure.high == pytest.approx(figure.value + half, abs=0.15 * half)
    assert figure.num_samples == 4000


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_interval_of_a_distance_holds_what_other_sets_give(metric, shift):
    """Of many features and few samples, where the plain percentiles of resampled figures lie far above the figure."""
    generator = torch.Generator().manual_seed(0)

    def clouds():
        return torch.randn(100, 32, generator=generator) + shift / 5, torch.randn(100, 32, generator=generator)

    expected = sum(metric(*clouds()) for _ in range(200)) / 200
    figures = [set_figure(metric, *clouds(), rounds=60) for _ in range(30)]
    assert sum(figure.low <= expected <= figure.high for figure in figures) >= 25  # 28.5 of an exact interval
    assert all(figure.low <= figure.value <= figure.high for figure in figures)


def test_shares_have_wilsons_interval():
    # Brown, Cai & DasGupta 2001 and textbooks: 5 of 10, and 0 of 10
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    figure = mean_figure([True] * 5 + [False] * 5)
    assert (figure.value, figure.low, figure.high) == (0.5, *wilson(0.5, 10))


def test_the_same_seed_gives_the_same_interval():
    x, y = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    assert set_figure(frechet_distance, x, y, seed=3) == set_figure(frechet_distance, x, y, seed=3)
    assert set_figure(frechet_distance, x, y, seed=3) != set_figure(frechet_distance, x, y, seed=4)


def test_the_interval_of_a_mean_over_pairs_holds_what_other_sets_give():
    """Density depends on both sets: to resample one of them alone gave intervals that held 76% of what they were to."""
    generator = torch.Generator().manual_seed(0)

    def clouds():
        return torch.randn(100, 8, generator=generator), torch.randn(100, 8, generator=generator)

    expected = sum(density(*clouds()).mean().item() for _ in range(200)) / 200
    figures = [pairs_figure(density(*clouds()), rounds=200) for _ in range(60)]
    assert sum(figure.low <= expected <= figure.high for figure in figures) >= 53  # 57 of an exact interval


def test_the_interval_over_pairs_of_a_value_of_rows_alone_is_that_of_their_mean():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1))
    pairs, rows = pairs_figure(values[:, None].expand(400, 3), rounds=2000), mean_figure(values, rounds=2000)
    assert pairs.value == pytest.approx(rows.value)
    assert (pairs.low, pairs.high) == pytest.approx((rows.low, rows.high), abs=0.015)


def test_no_interval_leaves_what_can_be():
    assert wilson(0.0, 36)[0] == 0 and wilson(1.0, 2000)[1] == 1
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    assert set_figure(frechet_distance, x, x + 1e-3).low < 0 == set_figure(frechet_distance, x, x + 1e-3, least=0.0).low

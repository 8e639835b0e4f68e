import math

import pytest
import torch

from unclip.evaluation.bootstrap import Figure, mean_figure, set_figure
from unclip.evaluation.metrics import frechet_distance, kernel_distance


def test_the_interval_of_a_mean_is_the_normal_one():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 3 + 5
    figure = mean_figure(values, rounds=2000)
    half = 1.96 * values.std().item() / math.sqrt(4000)
    assert figure.value == pytest.approx(values.mean().item())
    assert figure.low == pytest.approx(figure.value - half, abs=0.15 * half)
    assert figure.high == pytest.approx(figure.value + half, abs=0.15 * half)
    assert figure.num_samples == 4000


@pytest.mark.parametrize("metric, truth", [(frechet_distance, 2 * 0.5**2 + 2 * (1.5 - 1) ** 2), (kernel_distance, None)])
def test_the_interval_of_a_distance_holds_the_true_one(metric, truth):
    """Of normal clouds whose true distance is known; for the kernel, that of a very large sample."""
    generator = torch.Generator().manual_seed(0)

    def clouds(n):
        return torch.randn(n, 2, generator=generator) * 1.5 + 0.5, torch.randn(n, 2, generator=generator)

    truth = metric(*clouds(6000)) if truth is None else truth
    held = [figure.low <= truth <= figure.high for figure in (set_figure(metric, *clouds(300), rounds=100) for _ in range(40))]
    assert sum(held) >= 33  # 38 expected of an exact 95%; an interval off by its bias holds it in few


def test_the_same_seed_gives_the_same_interval():
    x, y = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    assert set_figure(frechet_distance, x, y, seed=3) == set_figure(frechet_distance, x, y, seed=3)
    assert set_figure(frechet_distance, x, y, seed=3) != set_figure(frechet_distance, x, y, seed=4)
    assert str(Figure(0.5, 0.25, 0.75, 10, 0)) == "0.5 (0.25 to 0.75)"

"""How sure a figure is: 95% intervals."""

import math
from dataclasses import dataclass

import torch

ROUNDS = 100
TAILS = 0.025, 0.975


@dataclass(frozen=True)
class Figure:
    """A measured number with its interval, the number of samples behind it and the seed of the resampling."""

    value: float
    low: float
    high: float
    num_samples: int
    seed: int


def mean_figure(values, seed=0, rounds=ROUNDS):
    """The mean of one value a sample (N,), a tensor or a list.

    Of shares (bool values) the interval is Wilson's, which has a width at 0 and at 1 as well; else it is that of the
    means of resampled values (Efron & Tibshirani 1993).
    """
    values = torch.as_tensor(values)
    count, mean = len(values), values.double().mean().item()
    if values.dtype == torch.bool:
        return Figure(mean, *wilson(mean, count), count, seed)
    values, generator = values.double().cpu(), torch.Generator().manual_seed(seed)
    rows = torch.randint(count, (rounds, count), generator=generator)
    low, high = values[rows].mean(1).quantile(torch.tensor(TAILS, dtype=torch.float64)).tolist()
    return Figure(mean, low, high, count, seed)


def pairs_figure(values, seed=0, rounds=ROUNDS):
    """The mean of one value a pair (N, M), rows and columns both resampled (the pigeonhole bootstrap, Owen 2007)."""
    values, generator = values.double().cpu(), torch.Generator().manual_seed(seed)

    def times(count):  # how often each is drawn, (rounds, count)
        rows = torch.randint(count, (rounds, count), generator=generator)
        return torch.zeros(rounds, count, dtype=torch.float64).scatter_add_(1, rows, torch.ones(rounds, count, dtype=torch.float64))

    means = (times(len(values)) @ values * times(values.shape[1])).sum(1) / values.numel()
    low, high = means.quantile(torch.tensor(TAILS, dtype=torch.float64)).tolist()
    return Figure(values.mean().item(), low, high, len(values), seed)


def set_figure(metric, x, y, seed=0, rounds=ROUNDS, least=-math.inf):
    """A metric of two sets of features (N, D), (M, D), both resampled; `least` is the least value that it can have.

    Drawing with replacement makes two sets seem farther apart than they are. So the spread of the resampled figures is
    laid around the figure itself: it says how the figure would vary between sets of these sizes, not where that of sets
    without end lies; Frechet distances fall as sets grow.
    """
    value, generator = max(least, metric(x, y)), torch.Generator().manual_seed(seed)

    def resampled(z):
        return z[torch.randint(len(z), (len(z),), generator=generator)]

    drawn = torch.tensor([metric(resampled(x), resampled(y)) for _ in range(rounds)], dtype=torch.float64)
    low, high = (drawn - drawn.mean()).quantile(torch.tensor(TAILS, dtype=torch.float64)).tolist()
    return Figure(value, max(least, value + low), value + high, len(x), seed)


def wilson(share, count, z=1.96):
    """The 95% interval of a share seen in `count` independent draws (Wilson 1927)."""
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)

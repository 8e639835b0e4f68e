"""How sure a figure is: 95% intervals by the bootstrap (Efron & Tibshirani 1993)."""

from dataclasses import dataclass

import torch

ROUNDS = 200
TAILS = 0.025, 0.975


@dataclass(frozen=True)
class Figure:
    """A measured number with its interval, the number of samples behind it and the seed of the resampling."""

    value: float
    low: float
    high: float
    num_samples: int
    seed: int

    def __str__(self):
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


def mean_figure(values, seed=0, rounds=ROUNDS):
    """The mean of one value a sample (N,), a tensor or a list, with the percentiles of the means of resampled sets."""
    values, generator = torch.as_tensor(values).double().cpu(), torch.Generator().manual_seed(seed)
    rows = torch.randint(len(values), (rounds, len(values)), generator=generator)
    low, high = values[rows].mean(1).quantile(torch.tensor(TAILS, dtype=torch.float64)).tolist()
    return Figure(values.mean().item(), low, high, len(values), seed)


def set_figure(metric, x, y, seed=0, rounds=ROUNDS):
    """A metric of two sets of features (N, D), (M, D), both resampled.

    Drawing with replacement makes two sets seem farther apart than they are, so the interval is the basic one: the
    resampled figures mirrored at the figure itself, which takes that bias out.
    """
    value, generator = metric(x, y), torch.Generator().manual_seed(seed)

    def resampled(z):
        return z[torch.randint(len(z), (len(z),), generator=generator)]

    drawn = torch.tensor([metric(resampled(x), resampled(y)) for _ in range(rounds)], dtype=torch.float64)
    below, above = drawn.quantile(torch.tensor(TAILS, dtype=torch.float64)).tolist()
    return Figure(value, 2 * value - above, 2 * value - below, len(x), seed)

"""An exact denoiser: for a mixture of normal distributions E[x_0 | x_t] is known, so samplers need no training.

And a way to get a sampler's exact mean and variance, with no Monte Carlo, where the denoiser is affine.
"""

import torch
from torch import Tensor

from unclip.diffusion import Prediction, Schedule


class Mixture:
    """K normal components in D dimensions, float64: weights (K,), means (K, D), covariances (K, D, D)."""

    def __init__(self, weights, means, covariances):
        self.weights, self.means, self.covariances = (
            torch.as_tensor(a, dtype=torch.float64) for a in (weights, means, covariances)
        )

    @property
    def mean(self) -> Tensor:
        return self.weights @ self.means                                                                    # (D,)

    @property
    def covariance(self) -> Tensor:
        d = self.means - self.mean                                                                        # (K, D)
        of_components = self.covariances + d[:, :, None] * d[:, None, :]
        return (self.weights[:, None, None] * of_components).sum(0)                                       # (D, D)

    def denoiser(self, schedule: Schedule):
        """(x_t (B, D), t (B,)) -> Prediction, by Bayes' rule over components and Gaussian conditioning within."""

        def denoise(x_t: Tensor, t: Tensor) -> Prediction:
            alpha_bar = schedule.alpha_bar[t[0]]
            a, sigma2 = alpha_bar.sqrt(), 1 - alpha_bar
            noisy = alpha_bar * self.covariances + sigma2 * torch.eye(self.means.shape[1], dtype=torch.float64)
            d = x_t[:, None] - a * self.means                                                          # (B, K, D)
            solved = torch.linalg.solve(noisy, d[..., None])[..., 0]                                   # (B, K, D)
            log_p = self.weights.log() - 0.5 * (torch.logdet(noisy) + (d * solved).sum(-1))               # (B, K)
            x_0_of_k = self.means + a * (self.covariances @ solved[..., None])[..., 0]                 # (B, K, D)
            x_0 = (log_p.softmax(1)[..., None] * x_0_of_k).sum(1)                                         # (B, D)
            return Prediction(x_0, (x_t - a * x_0) / sigma2.sqrt())

        return denoise


class Marginals:
    """The exact mean and variance of x_t at every step of a sampler whose steps are affine in x_t and in the noise.

    Row 0 of the batch gets no noise, row 1 a unit of it in x_T, row i + 2 a unit in the i-th draw. Then the mean is
    row 0, and the variance the sum of squares of the other rows' differences from it.
    """

    def __init__(self, n: int, mean_T: float, std_T: float):
        self.draws = 0
        self.x_T = torch.full((n + 2, 1), mean_T, dtype=torch.float64)
        self.x_T[1] += std_T
        self.means, self.variances = [], []

    def noise(self, x: Tensor) -> Tensor:
        unit = torch.zeros_like(x)
        unit[self.draws + 2] = 1
        self.draws += 1
        return unit

    def record(self, x_t: Tensor) -> None:
        self.means.append(x_t[0].item())
        self.variances.append(((x_t[1:] - x_t[0]) ** 2).sum().item())

    def callback(self, i, n, x_t, prediction) -> None:
        self.record(x_t)

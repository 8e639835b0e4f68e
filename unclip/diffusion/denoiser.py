"""One contract for prior, decoder and upsampler: (x_t, t) -> x_0-hat, eps-hat and, where learned, the variance."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unclip.diffusion import process
from unclip.diffusion.schedule import Schedule

PREDICTIONS = ("eps", "x_0", "v")


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says about x_t.

    x_0 and eps always agree: x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps.

    Attributes:
        x_0: (B, ...) the clean signal.
        eps: (B, ...) the noise.
        var_frac: (B, ...) or None. Where the learned log-variance lies between log beta-tilde (0) and log beta (1).
    """

    x_0: Tensor
    eps: Tensor
    var_frac: Tensor | None = None


class Denoiser:
    """A network seen as a denoiser: reads its raw output as eps, x_0 or v and gives a `Prediction`.

    Results are float32, or float64 where x_t is: a network may run in bfloat16, the mathematics does not.

    Args:
        network: (x_t (B, C, ...), t (B,), **cond) -> (B, C, ...), or (B, 2C, ...) with `learned_variance`.
        schedule: the forward process that the network was trained on.
        prediction: what the raw output means: "eps" (DDPM), "x_0" (unCLIP's prior) or "v" (Salimans & Ho 2022).
        learned_variance: the last C of 2C output channels are a raw value in [-1, 1] that places the variance
            (improved DDPM, eq. 15).

    Raises:
        ValueError: the prediction is unknown; when called, the network's output has the wrong shape.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        schedule: Schedule,
        prediction: str = "eps",
        learned_variance: bool = False,
    ):
        if prediction not in PREDICTIONS:
            raise ValueError(f"unknown prediction {prediction!r}; choose one of {', '.join(PREDICTIONS)}")
        self.network = network
        self.schedule = schedule
        self.prediction = prediction
        self.learned_variance = learned_variance

    def __call__(self, x_t: Tensor, t: Tensor, **cond) -> Prediction:
        """x_t (B, C, ...), t LongTensor (B,) in 0..T-1 -> Prediction."""
        output, var_frac = self.output(x_t, t, **cond)
        return self.interpret(output, x_t, t, var_frac)

    def output(self, x_t: Tensor, t: Tensor, **cond) -> tuple[Tensor, Tensor | None]:
        """The network's own prediction (B, C, ...), in float32 at least, and var_frac (B, C, ...) or None."""
        raw = self.network(x_t, t, **cond)                                                        # (B, C or 2C, ...)
        raw = raw.to(torch.promote_types(x_t.dtype, torch.float32))
        channels = x_t.shape[1] * (2 if self.learned_variance else 1)
        if raw.shape != (x_t.shape[0], channels, *x_t.shape[2:]):
            raise ValueError(
                f"the network turned {tuple(x_t.shape)} into {tuple(raw.shape)}; "
                f"{channels} channels were expected (learned_variance={self.learned_variance})"
            )
        if not self.learned_variance:
            return raw, None
        output, raw_variance = raw.chunk(2, dim=1)                                                      # (B, C, ...)
        return output, (raw_variance + 1) / 2

    def interpret(self, output: Tensor, x_t: Tensor, t: Tensor, var_frac: Tensor | None = None) -> Prediction:
        """The network's own prediction (B, C, ...), as a `Prediction`."""
        x_t = x_t.to(output.dtype)
        if self.prediction == "eps":
            return Prediction(process.x_0_from_eps(self.schedule, x_t, output, t), output, var_frac)
        if self.prediction == "x_0":
            return Prediction(output, process.eps_from_x_0(self.schedule, x_t, output, t), var_frac)
        x_0 = process.x_0_from_v(self.schedule, x_t, output, t)
        eps = process.eps_from_v(self.schedule, x_t, output, t)
        return Prediction(x_0, eps, var_frac)

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should have said, given the true x_0 and eps: (B, C, ...)."""
        if self.prediction == "eps":
            return eps
        if self.prediction == "x_0":
            return x_0
        return process.v_from_x_0_and_eps(self.schedule, x_0, eps, t)

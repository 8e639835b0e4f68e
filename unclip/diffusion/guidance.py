"""Denoiser -> denoiser: classifier-free guidance and thresholding, composed outside the network.

A denoiser here is what samplers take: (x_t (B, ...), t (B,)) -> Prediction.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from unclip.diffusion import process
from unclip.diffusion.denoiser import Prediction
from unclip.diffusion.schedule import Schedule

Conditioning = dict[str, Tensor | None]


def guided(
    denoise: Callable[..., Prediction], cond: Conditioning, null: Conditioning, scale: float
) -> Callable[[Tensor, Tensor], Prediction]:
    """Classifier-free guidance: null + scale (cond - null) (Ho & Salimans 2022, eq. 6, where scale = 1 + w).

    Only x_0 and eps are extrapolated. The variance comes from the conditional half: a guided variance would leave
    the range that it was trained in.

    Args:
        denoise: (x_t, t, **conditioning) -> Prediction. Called once a step, on the batch [cond; null]; at scale 1 on
            cond alone.
        cond: each value a tensor (B, ...) or None.
        null: the same keys and shapes, without the condition.
        scale: 0 ignores the condition, 1 is the plain conditional model, more follows the condition harder.

    Raises:
        ValueError: cond and null differ in keys, or a value is None in one and not in the other.
    """
    if cond.keys() != null.keys():
        raise ValueError(f"cond has the keys {sorted(cond)}, null has {sorted(null)}")
    if scale == 1:
        return lambda x_t, t: denoise(x_t, t, **cond)

    both = {key: _stack(key, cond[key], null[key]) for key in cond}                                      # (2B, ...)

    def denoiser(x_t: Tensor, t: Tensor) -> Prediction:
        prediction = denoise(torch.cat([x_t, x_t]), torch.cat([t, t]), **both)                           # (2B, ...)
        x_0, x_0_null = prediction.x_0.chunk(2)                                                           # (B, ...)
        eps, eps_null = prediction.eps.chunk(2)
        var_frac = None if prediction.var_frac is None else prediction.var_frac.chunk(2)[0]
        return Prediction(torch.lerp(x_0_null, x_0, scale), torch.lerp(eps_null, eps, scale), var_frac)

    return denoiser


def _stack(key: str, cond: Tensor | None, null: Tensor | None) -> Tensor | None:
    if (cond is None) != (null is None):
        raise ValueError(f"{key!r} is None in one of cond and null and a tensor in the other")
    return None if cond is None else torch.cat([cond, null])


def thresholded(
    denoiser: Callable[[Tensor, Tensor], Prediction],
    schedule: Schedule,
    static: float | None = None,
    dynamic: float | None = None,
) -> Callable[[Tensor, Tensor], Prediction]:
    """Keeps x_0-hat in the range of the data, and recomputes eps so that the two still agree at x_t.

    Args:
        denoiser: (x_t, t) -> Prediction.
        schedule: the denoiser's schedule.
        static: clamp x_0 to [-static, static].
        dynamic: a percentile in (0, 1), such as 0.995, for data in [-1, 1]: s is that percentile of |x_0| in each
            picture, at least 1; x_0 is clamped to [-s, s] and divided by s (Imagen, Saharia et al. 2022, section
            2.3). With neither given, the denoiser comes back as it is.

    Raises:
        ValueError: both are given, static is not positive, or the percentile is outside (0, 1).
    """
    if static is not None and dynamic is not None:
        raise ValueError("give static or dynamic thresholding, not both")
    if static is None and dynamic is None:
        return denoiser
    if static is not None and static <= 0:
        raise ValueError(f"static must be positive, got {static}")
    if dynamic is not None and not 0 < dynamic < 1:
        raise ValueError(f"dynamic is a percentile in (0, 1), got {dynamic}")

    def thresholded_denoiser(x_t: Tensor, t: Tensor) -> Prediction:
        prediction = denoiser(x_t, t)
        x_0 = prediction.x_0
        x_0 = x_0.clamp(-static, static) if static is not None else dynamic_threshold(x_0, dynamic)
        eps = process.eps_from_x_0(schedule, x_t.to(x_0.dtype), x_0, t)
        return Prediction(x_0, eps, prediction.var_frac)

    return thresholded_denoiser


def dynamic_threshold(x_0: Tensor, percentile: float) -> Tensor:
    """Imagen's dynamic thresholding: (B, ...) -> (B, ...) in [-1, 1]."""
    s = x_0.abs().flatten(1).quantile(percentile, dim=1).clamp(min=1)                                        # (B,)
    s = s.reshape(-1, *[1] * (x_0.ndim - 1))                                                            # (B, 1, ...)
    return x_0.clamp(-s, s) / s

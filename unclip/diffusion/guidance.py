"""Denoiser -> denoiser: guidance, composition, what is kept, and thresholding; all outside the network.

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
    if scale == 1:
        _check_keys(cond, null)
        return lambda x_t, t: denoise(x_t, t, **cond)
    return composed(denoise, [cond], null, torch.tensor([[scale]], dtype=torch.float64))


def composed(
    denoise: Callable[..., Prediction], conds: list[Conditioning], null: Conditioning, weights: Tensor
) -> Callable[[Tensor, Tensor], Prediction]:
    """Several conditions at once: null + sum over k of w_k (cond_k - null) (Liu et al. 2022, "Compositional Visual
    Generation with Composable Diffusion Models", eq. 11). With one condition it is classifier-free guidance.

    Only x_0 and eps are composed; the variance is the first condition's, as in `guided`.

    Args:
        denoise, null: as for `guided`; called once a step, on the batch [cond_1; ...; cond_K; null].
        conds: K conditionings, as `cond` of `guided`.
        weights: (K, B) or (K, 1). Negative ones lead away from a condition.

    Raises:
        ValueError: as `guided`.
    """
    for cond in conds:
        _check_keys(cond, null)
    groups = [*conds, null]
    every = {key: _stack(key, [group[key] for group in groups]) for key in null}                    # ((K + 1) B, ...)

    def denoiser(x_t: Tensor, t: Tensor) -> Prediction:
        n = len(groups)
        prediction = denoise(torch.cat([x_t] * n), t.repeat(n), **every)                            # ((K + 1) B, ...)

        def compose(values: Tensor) -> Tensor:
            *with_cond, without = values.chunk(n)                                                        # (B, ...)
            total = without
            for value, weight in zip(with_cond, weights):
                total = total + weight.to(value).reshape(-1, *[1] * (value.ndim - 1)) * (value - without)
            return total

        var_frac = None if prediction.var_frac is None else prediction.var_frac.chunk(n)[0]
        return Prediction(compose(prediction.x_0), compose(prediction.eps), var_frac)

    return denoiser


def during(
    denoiser: Callable[[Tensor, Tensor], Prediction],
    otherwise: Callable[[Tensor, Tensor], Prediction],
    schedule: Schedule,
    start: float,
    end: float,
) -> Callable[[Tensor, Tensor], Prediction]:
    """A denoiser for a part of the way from noise to picture, and another one before and after it.

    With the guided denoiser and the plain one it is guidance in a limited interval: early it takes variety, late it does
    nothing that is seen, and where it is off a step costs half (Kynkaanniemi et al. 2024).

    Args:
        start, end: in 0..1, shares of the way: `denoiser` takes the steps with start <= (T - 1 - t) / T < end, so that the
            first step of a whole run is at 0, and a run of n evenly spaced steps at 0, 1/n, 2/n, ...
        otherwise: (x_t, t) -> Prediction, like denoiser. Where a batch has timesteps of both kinds, both are called on it.

    Raises:
        ValueError: start or end is outside 0..1, or end comes before start.
    """
    if not 0 <= start <= end <= 1:
        raise ValueError(f"from {start} to {end}: choose two numbers in 0..1, the smaller one first")

    def limited(x_t: Tensor, t: Tensor) -> Prediction:
        inside = within(t, schedule, start, end)                                                            # (B,)
        if inside.all():
            return denoiser(x_t, t)
        if not inside.any():
            return otherwise(x_t, t)
        there, elsewhere = denoiser(x_t, t), otherwise(x_t, t)
        pick = inside.reshape(-1, *[1] * (x_t.ndim - 1))                                                # (B, 1, ...)
        var_frac = None if there.var_frac is None else torch.where(pick, there.var_frac, elsewhere.var_frac)
        return Prediction(torch.where(pick, there.x_0, elsewhere.x_0), torch.where(pick, there.eps, elsewhere.eps), var_frac)

    return limited


def within(t: Tensor, schedule: Schedule, start: float, end: float) -> Tensor:
    """Which timesteps (B,) lie in a part of the way, bool (B,); see `during`."""
    share = (schedule.num_timesteps - 1 - t.double()) / schedule.num_timesteps
    return (start <= share) & (share < end)


def corrected(
    denoiser: Callable[[Tensor, Tensor], Prediction], schedule: Schedule, correct: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Prediction]:
    """A denoiser whose x_0-hat is what `correct` makes of it, (B, ...) -> (B, ...); eps is such that both agree at x_t."""

    def corrected_denoiser(x_t: Tensor, t: Tensor) -> Prediction:
        prediction = denoiser(x_t, t)
        x_0 = correct(prediction.x_0)
        return Prediction(x_0, process.eps_from_x_0(schedule, x_t.to(x_0), x_0, t), prediction.var_frac)

    return corrected_denoiser


def keeping(
    denoiser: Callable[[Tensor, Tensor], Prediction], schedule: Schedule, x_0: Tensor, mask: Tensor
) -> Callable[[Tensor, Tensor], Prediction]:
    """Inpainting: x_0-hat is the given x_0 wherever the mask is 0, and eps agrees with it.

    So what is kept follows the line from its own noise to x_0 in any sampler, and ends at x_0; what is drawn sees it at
    the right noise level in every step, as in RePaint (Lugmayr et al. 2022, eq. 8) with one noise for all steps.

    Args:
        denoiser: (x_t, t) -> Prediction.
        x_0: (B, C, ...) what is kept.
        mask: broadcasts to x_0, in 0..1: 1 where to draw, 0 where to keep, a mixture between.
    """

    return corrected(denoiser, schedule, lambda hat: torch.lerp(x_0.to(hat), hat, mask.to(hat)))


def _check_keys(cond: Conditioning, null: Conditioning) -> None:
    if cond.keys() != null.keys():
        raise ValueError(f"cond has the keys {sorted(cond)}, null has {sorted(null)}")


def _stack(key: str, values: list[Tensor | None]) -> Tensor | None:
    absent = [value is None for value in values]
    if any(absent) and not all(absent):
        raise ValueError(f"{key!r} is None in one of cond and null and a tensor in the other")
    return None if all(absent) else torch.cat(values)


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

    if static is not None:
        return corrected(denoiser, schedule, lambda x_0: x_0.clamp(-static, static))
    return corrected(denoiser, schedule, lambda x_0: dynamic_threshold(x_0, dynamic))


def dynamic_threshold(x_0: Tensor, percentile: float) -> Tensor:
    """Imagen's dynamic thresholding: (B, ...) -> (B, ...) in [-1, 1]."""
    s = x_0.abs().flatten(1).quantile(percentile, dim=1).clamp(min=1)                                        # (B,)
    s = s.reshape(-1, *[1] * (x_0.ndim - 1))                                                            # (B, 1, ...)
    return x_0.clamp(-s, s) / s

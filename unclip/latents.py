"""Geometry of CLIP's space: what is done with image embeddings between encoding and decoding (Ramesh et al. 2022, 3)."""

import math

import torch
import torch.nn.functional as F

TINY = 1e-12  # a length that counts as none


def slerp(a, b, share):
    """Spherical interpolation: from a (share 0) to b (share 1) along the great circle, the length in a straight line.

    Right for parallel vectors, where it is the straight line, and for opposite ones, which any great circle joins: there
    it takes one through the axis that a is least along.

    Args:
        a, b: (B, ...), each row a vector. share: a number; beyond 0..1 it goes on along the circle.

    Returns:
        (B, ...) in a's dtype.
    """
    shape, dtype = a.shape, a.dtype
    a, b = (v.double().flatten(1) for v in (a, b))                                                            # (B, D)
    length_a, length_b = (v.norm(dim=1, keepdim=True) for v in (a, b))
    a, b = a / length_a.clamp(min=TINY), b / length_b.clamp(min=TINY)
    cosine = (a * b).sum(dim=1, keepdim=True)
    across = b - cosine * a                                                        # the part of b at a right angle to a
    sine = across.norm(dim=1, keepdim=True)
    least = F.one_hot(a.abs().argmin(dim=1), a.shape[1]).to(a)
    anywhere = F.normalize(least - (least * a).sum(dim=1, keepdim=True) * a, dim=1)
    across = torch.where(sine > TINY, across / sine.clamp(min=TINY), anywhere)
    angle = share * torch.atan2(sine, cosine)
    length = torch.lerp(length_a, length_b, share)
    return (length * (angle.cos() * a + angle.sin() * across)).reshape(shape).to(dtype)


def mixture(vectors, weights):
    """The weighted mean of directions: of K vectors (K, ...) with K weights, one vector (...), its length their mean.

    Raises:
        ValueError: they cancel out.
    """
    weights = torch.as_tensor(weights, dtype=torch.float64)
    flat = vectors.double().flatten(1)                                                                        # (K, D)
    lengths = flat.norm(dim=1)
    mean = weights @ (flat / lengths[:, None].clamp(min=TINY))                                                  # (D,)
    if mean.norm() < 1e-6 * weights.abs().sum() or not weights.sum() > 0:
        raise ValueError("the weights cancel out: choose others")
    length = (weights.abs() @ lengths) / weights.abs().sum()
    return (length * F.normalize(mean, dim=0)).reshape(vectors.shape[1:]).to(vectors.dtype)


def text_diff(image_embed, towards, away):
    """The direction of an edit, as long as the embedding that it edits (Ramesh et al. 2022, section 3.3).

    z_d = norm(z_t - z_t0); turning the embedding towards it, slerp(z_i, z_d, share), makes the edit.

    Args:
        image_embed: z_i (B, D); towards, away: z_t and z_t0 (B or 1, D), text embeddings.

    Raises:
        ValueError: the two texts have the same embedding.
    """
    # the direction alone counts: CLIP compares unit vectors
    difference = F.normalize(towards.double(), dim=1) - F.normalize(away.double(), dim=1)
    if (difference.norm(dim=1) < 1e-6).any():
        raise ValueError("the two captions mean the same")
    unit = F.normalize(difference, dim=1).expand(len(image_embed), -1)
    return (unit * image_embed.double().norm(dim=1, keepdim=True)).to(image_embed.dtype)


def principal_components(embeds):
    """The mean (D,) of embeddings (N, D) and their principal directions (min(N, D), D), unit vectors, the largest
    variance first."""
    mean = embeds.double().mean(dim=0)
    return mean, torch.linalg.svd(embeds.double() - mean, full_matrices=False).Vh


def projected(embed, mean, directions):
    """Embeddings (B, D) as far as K directions (K, D) from the mean (D,) describe them: (B, D)."""
    away = embed.double() - mean
    return (mean + away @ directions.T @ directions).to(embed.dtype)


def nearest(embed, embeds, count):
    """The `count` embeddings of (N, D) with the largest cosine to one (D,): their rows and their cosines, best first."""
    cosines = F.cosine_similarity(embeds.double(), embed.double()[None], dim=1)
    found = cosines.topk(min(count, len(embeds)))
    return found.indices.tolist(), found.values.tolist()


def spread_of(embeds):
    """How far N embeddings (N, D) lie apart, N >= 2: {"mean_cosine": of two of them, "angle": its angle in degrees,
    "dimensions": how many directions they take up, (sum of variances)^2 / sum of squared variances}."""
    unit = F.normalize(embeds.double(), dim=1)
    n = len(unit)
    cosine = ((unit @ unit.T).sum() - n).item() / (n * (n - 1))
    variances = torch.linalg.svdvals(embeds.double() - embeds.double().mean(dim=0)) ** 2
    dimensions = (variances.sum() ** 2 / (variances**2).sum().clamp(min=TINY)).item()
    return {"mean_cosine": cosine, "angle": math.degrees(math.acos(max(-1.0, min(1.0, cosine)))), "dimensions": dimensions}

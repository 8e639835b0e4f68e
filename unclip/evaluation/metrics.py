"""Figures that compare two sets of pictures by their features: float (N, D) of what is judged, (M, D) of the reference.

A metric that is the mean of a value a picture, or a pair, gives those values, so that an interval can be drawn from them.
"""

import torch

CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0


def frechet_distance(x, y):
    """|mu_x - mu_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)), in float64: FID's formula (Heusel et al. 2017, eq. 6).

    Raises:
        ValueError: fewer than two samples on a side.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a Frechet distance needs two pictures a side, got {len(x)} and {len(y)}")
    x, y = x.double(), y.double()
    cov_x, cov_y = (torch.cov(z.T).reshape(z.shape[1], -1) for z in (x, y))                                   # (D, D)
    # C_x C_y has the eigenvalues of the symmetric C_x^(1/2) C_y C_x^(1/2), which has faster and steadier solvers.
    values, vectors = torch.linalg.eigh(cov_x)
    half = vectors * values.clamp(min=0).sqrt() @ vectors.T
    root = torch.linalg.eigvalsh(half @ cov_y @ half).clamp(min=0).sqrt().sum()
    mean = (x.mean(0) - y.mean(0)).square().sum()
    return float(mean + cov_x.trace() + cov_y.trace() - 2 * root)


def kernel_distance(x, y):
    """The unbiased squared MMD with the kernel (a . b / D + 1)^3: KID (Binkowski et al. 2018, section 4).

    Raises:
        ValueError: fewer than two samples on a side.
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"a kernel distance needs two pictures a side, got {n} and {m}")
    x, y = x.double(), y.double()

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def among(a, count):
        k = kernel(a, a)
        return (k.sum() - k.trace()) / (count * (count - 1))

    return float(among(x, n) + among(y, m) - 2 * kernel(x, y).mean())


def cmmd(x, y):
    """1000 times the squared MMD (biased) of unit embeddings with a Gaussian kernel of sigma 10 (Jayasumana et al. 2024)."""
    x, y = torch.nn.functional.normalize(x.double(), dim=1), torch.nn.functional.normalize(y.double(), dim=1)

    def mean_kernel(a, b):
        squared = (2 - 2 * a @ b.T).clamp(min=0)
        return torch.exp(-squared / (2 * CMMD_SIGMA**2)).mean()

    return float(CMMD_SCALE * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)))


def radii(x, k):
    """The distance of each sample (N, D) to its k-th nearest other: (N,).

    Raises:
        ValueError: fewer than k + 1 samples.
    """
    if len(x) <= k:
        raise ValueError(f"the {k} nearest neighbours of a picture need {k + 1} pictures a side, got {len(x)}")
    return distances(x, x).kthvalue(k + 1, dim=1).values  # the nearest is itself


def distances(x, y):
    """Euclidean, (N, D) and (M, D) -> (N, M), in float64: exact, not by the expanded square, so 0 for equal rows."""
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def precision(x, y, k=3):
    """For each sample of x, whether it lies in a ball of the reference (Kynkaanniemi et al. 2019, eq. 2): (N,)."""
    return (distances(x, y) <= radii(y, k)).any(1)


def recall(x, y, k=3):
    """For each sample of the reference y, whether it lies in a ball of x: (M,)."""
    return precision(y, x, k)


def density(x, y, k=5):
    """For each sample of x and each of the reference, M / k where it lies in that one's ball, else 0 (Naeem et al. 2020,
    eq. 3, is their mean): (N, M)."""
    return (distances(x, y) < radii(y, k)).double() * (len(y) / k)


def coverage(x, y, k=5):
    """For each sample of the reference y, whether a sample of x lies in its ball (Naeem et al. 2020, eq. 4): (M,)."""
    return (distances(x, y) < radii(y, k)).any(0)


def clip_score(image_embed, text_embed):
    """100 times the cosine of each picture (N, D) and its caption (N, D), 0 at least (Hessel et al. 2021, w = 100): (N,)."""
    cosine = torch.nn.functional.cosine_similarity(image_embed.double(), text_embed.double())
    return 100 * cosine.clamp(min=0)

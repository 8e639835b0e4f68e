import math

import pytest
import torch
import torch.nn.functional as F

from unclip.latents import mixture, nearest, principal_components, projected, slerp, spread_of, text_diff


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def angle(a, b):
    return torch.acos(F.cosine_similarity(a, b, dim=-1).clamp(-1, 1))


# ---- slerp -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_it_is_shoemakes_formula_for_unit_vectors(share):
    """Shoemake 1985: sin((1 - t) w) / sin w a + sin(t w) / sin w b."""
    a, b = F.normalize(vectors(5, 9), dim=1), F.normalize(vectors(5, 9, seed=1), dim=1)
    w = angle(a, b)[:, None]
    expected = ((1 - share) * w).sin() / w.sin() * a + (share * w).sin() / w.sin() * b
    torch.testing.assert_close(slerp(a, b, share), expected)


def test_the_angle_grows_evenly_and_the_length_too():
    a, b = 3 * vectors(4, 7), vectors(4, 7, seed=1)
    for share in (0.25, 0.6):
        between = slerp(a, b, share)
        torch.testing.assert_close(angle(a, between), share * angle(a, b))
        torch.testing.assert_close(between.norm(dim=1), (1 - share) * a.norm(dim=1) + share * b.norm(dim=1))


def test_parallel_vectors_are_joined_by_a_straight_line():
    a = vectors(3, 6)
    torch.testing.assert_close(slerp(a, 4 * a, 0.5), 2.5 * a)
    torch.testing.assert_close(slerp(a, a, 0.7), a)


@pytest.mark.parametrize("nearly", [0.0, 1e-13, 1e-9, 1e-4])
def test_opposite_vectors_are_joined_by_a_great_circle(nearly):
    a = vectors(3, 6)
    b = -2 * a + nearly * vectors(3, 6, seed=2)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    middle = slerp(a, b, 0.5)
    torch.testing.assert_close(angle(a, middle), torch.full((3,), math.pi / 2, dtype=torch.float64), rtol=0, atol=1e-3)
    torch.testing.assert_close(middle.norm(dim=1), 1.5 * a.norm(dim=1), rtol=1e-3, atol=0)


def test_of_one_dimension_and_of_nothing():
    """Where there is no circle, or no direction, the ends are still the ends."""
    zero, a = torch.zeros(1, 4), torch.ones(1, 4)
    for first, second in ((zero, a), (a, zero), (zero, zero)):
        for share in (0.0, 0.5, 1.0):
            assert slerp(first, second, share).isfinite().all()
        torch.testing.assert_close(slerp(first, second, 0.0), first)
        torch.testing.assert_close(slerp(first, second, 1.0), second)


def test_pictures_are_interpolated_as_vectors_row_by_row():
    """Noise stays noise: the variance of what lies between two draws is theirs, where a straight line's would halve."""
    a, b = vectors(2, 3, 32, 32).float(), vectors(2, 3, 32, 32, seed=1).float()
    middle = slerp(a, b, 0.5)
    assert middle.shape == a.shape and middle.dtype == torch.float32
    torch.testing.assert_close(middle[1:], slerp(a[1:], b[1:], 0.5))
    assert middle.var().item() == pytest.approx(1, abs=0.05)


# ---- mixture ---------------------------------------------------------------------------------------------------------

def test_the_mixture_of_two_is_half_way():
    a, b = vectors(1, 8), vectors(1, 8, seed=1)
    torch.testing.assert_close(mixture(torch.cat([a, b]), [2.0, 2.0]), slerp(a, b, 0.5)[0])
    torch.testing.assert_close(mixture(torch.cat([a, b]), [1.0, 0.0]), a[0])


def test_a_negative_weight_leads_away_whatever_the_lengths():
    mixed = mixture(torch.tensor([[10.0, 0.0], [0.0, 12.0]]), [1.0, -0.9])
    torch.testing.assert_close(F.normalize(mixed, dim=0), F.normalize(torch.tensor([1.0, -0.9]), dim=0))
    assert 10 < mixed.norm() < 12


def test_weights_that_cancel_are_refused():
    a = vectors(1, 8)
    for pair, weights in ((torch.cat([a, -a]), [1.0, 1.0]), (torch.cat([a, a]), [1.0, -1.0]), (torch.cat([a, a]), [-1, -1])):
        with pytest.raises(ValueError, match="cancel"):
            mixture(pair, weights)


# ---- text diffs ------------------------------------------------------------------------------------------------------

def test_a_text_diff_is_a_direction_of_the_embeddings_length():
    z, to, away = 5 * vectors(2, 8), 3 * vectors(1, 8, seed=1), vectors(1, 8, seed=2)
    direction = text_diff(z, to, away)
    torch.testing.assert_close(direction.norm(dim=1), z.norm(dim=1))
    expected = F.normalize(F.normalize(to, dim=1) - F.normalize(away, dim=1), dim=1)
    torch.testing.assert_close(F.normalize(direction, dim=1), expected.expand(2, -1))
    torch.testing.assert_close(text_diff(z, away, to), -direction)


def test_equal_captions_have_no_diff():
    with pytest.raises(ValueError, match="the same"):
        text_diff(vectors(1, 8), vectors(1, 8, seed=1), 2 * vectors(1, 8, seed=1))


# ---- components, neighbours, spread ----------------------------------------------------------------------------------

def test_principal_components_are_the_covariances_eigenvectors():
    embeds = vectors(50, 6) * torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.5]) + 7
    mean, directions = principal_components(embeds)
    torch.testing.assert_close(mean, embeds.mean(0))
    eigenvectors = torch.linalg.eigh(embeds.T.cov()).eigenvectors.flip(1).T  # largest first
    torch.testing.assert_close((directions * eigenvectors).sum(1).abs(), torch.ones(6, dtype=torch.float64))


def test_the_more_components_the_nearer_and_all_are_the_vector_itself():
    embeds, z = vectors(50, 6), vectors(3, 6, seed=1)
    mean, directions = principal_components(embeds)
    errors = [(projected(z, mean, directions[:k]) - z).norm() for k in range(7)]
    assert errors == sorted(errors, reverse=True)
    torch.testing.assert_close(projected(z, mean, directions), z)
    torch.testing.assert_close(projected(z, mean, directions[:0]), mean.expand(3, -1))


def test_the_nearest_have_the_largest_cosine_whatever_their_length():
    z = torch.tensor([1.0, 0.0])
    embeds = torch.tensor([[0.0, 9.0], [0.1, 0.01], [5.0, 5.0], [-1.0, 0.0]])
    rows, cosines = nearest(z, embeds, 3)
    assert rows == [1, 2, 0]
    assert cosines == pytest.approx([10 / math.sqrt(101), math.sqrt(0.5), 0.0], abs=1e-6)
    assert len(nearest(z, embeds, 99)[0]) == 4


def test_spread_of_known_sets():
    crossed = torch.cat([torch.eye(3), -torch.eye(3)]) * 4
    figures = spread_of(crossed)
    # of 30 ordered pairs, 6 are opposite and 24 at a right angle; the three directions vary equally
    assert figures["mean_cosine"] == pytest.approx(-6 / 30)
    assert figures["dimensions"] == pytest.approx(3)
    line = torch.tensor([[1.0, k, 0.0] for k in range(5)])
    assert spread_of(line)["dimensions"] == pytest.approx(1)
    same = spread_of(torch.ones(4, 3))
    assert same["mean_cosine"] == pytest.approx(1) and same["angle"] == pytest.approx(0, abs=1e-3)

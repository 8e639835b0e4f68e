"""The target of distillation against exact denoisers: point masses and normal mixtures, all in float64."""

import pytest
import torch

from unclip.diffusion import Denoiser, Prediction, ddim, guided, process
from unclip.diffusion.distillation import distilled_x_0, x_0_of_step

from .mixture import Mixture

MIXTURE = Mixture([0.3, 0.7], [[1.0, -0.5], [-0.4, 0.8]], [[[0.2, 0.05], [0.05, 0.1]], [[0.05, 0.0], [0.0, 0.3]]])
PATHS = [[999, 749, 499], [749, 499, 249], [499, 249, -1], [999, 499, -1], [999, 874, 749, 624, 499], [999, -1]]


@pytest.fixture
def x_t(generator):
    return torch.randn(5, 2, generator=generator, dtype=torch.float64)


def of(path, batch=5):
    return torch.tensor(path).expand(batch, -1)


def steps(denoise, x, path, schedule):
    """DDIM by its equation (Song et al. 2020, eq. 12 with eta = 0)."""
    for t, t_next in zip(path, path[1:]):
        said = denoise(x, torch.full((len(x),), t))
        alpha_bar = schedule.alpha_bar_at(t_next)
        x = alpha_bar.sqrt() * said.x_0 + (1 - alpha_bar).sqrt() * said.eps
    return x


@pytest.mark.parametrize("prediction", ["x_0", "eps", "v"])
@pytest.mark.parametrize("path", PATHS)
def test_one_step_of_a_student_that_says_the_target_lands_where_the_teacher_does(schedule, x_t, path, prediction):
    if prediction == "eps" and path[0] == 999:
        path = [900, *path[1:]]  # at 999 an eps tells nothing of x_0: why such teachers are refused
    teacher = MIXTURE.denoiser(schedule)
    x_0 = distilled_x_0(teacher, x_t, of(path), schedule)
    t = torch.full((5,), path[0])
    said = Denoiser(None, schedule, prediction).target(x_0, process.eps_from_x_0(schedule, x_t, x_0, t), t)
    student = Denoiser(lambda x, t: said, schedule, prediction)
    landed = steps(student, x_t, [path[0], path[-1]], schedule)
    torch.testing.assert_close(landed, steps(teacher, x_t, path, schedule), rtol=1e-9, atol=1e-9)


def test_a_whole_drawing_of_such_students_is_the_teachers(schedule, x_t):
    teacher, fine = MIXTURE.denoiser(schedule), schedule.timesteps(8, "trailing")
    for n in (4, 2, 1):
        levels = torch.cat([fine, torch.tensor([-1])]).tolist()
        r = 8 // n
        path_at = {levels[i * r]: levels[i * r : (i + 1) * r + 1] for i in range(n)}

        def student(x, t):
            x_0 = distilled_x_0(teacher, x, of(path_at[int(t[0])]), schedule)
            return Prediction(x_0, process.eps_from_x_0(schedule, x, x_0, t))

        drawn = ddim(student, x_t, schedule.timesteps(n, "trailing"), schedule)
        torch.testing.assert_close(drawn, ddim(teacher, x_t, fine, schedule), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_a_point_mass_is_its_own_target(schedule, x_t, path):
    """Where the data is one point, every step's x_0-hat is that point, whatever the noise."""
    point = torch.tensor([0.3, -0.7], dtype=torch.float64)

    def denoise(x, t):
        x_0 = point.expand_as(x)
        return Prediction(x_0, process.eps_from_x_0(schedule, x, x_0, t))

    torch.testing.assert_close(distilled_x_0(denoise, x_t, of(path), schedule), point.expand(5, 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_the_target_is_the_mean_of_the_predictions_by_their_share_of_the_rise_of_sqrt_snr(schedule, x_t, path):
    seen, teacher = [], MIXTURE.denoiser(schedule)

    def spy(x, t):
        seen.append(teacher(x, t))
        return seen[-1]

    target = distilled_x_0(spy, x_t, of(path), schedule)
    alpha_bar = [float(schedule.alpha_bar_at(t)) for t in path]
    if path[-1] < 0:
        expected = seen[-1].x_0
    else:
        root = [(a / (1 - a)) ** 0.5 for a in alpha_bar]
        rises = [b - a for a, b in zip(root, root[1:])]
        expected = sum(rise * said.x_0 for rise, said in zip(rises, seen)) / sum(rises)
    torch.testing.assert_close(target, expected, rtol=1e-9, atol=1e-9)


def test_every_sample_has_a_path_of_its_own(schedule, x_t):
    teacher = MIXTURE.denoiser(schedule)

    def denoise(x, t):  # the mixture's takes one t for the batch
        each = [teacher(x[i : i + 1], t[i : i + 1]) for i in range(len(x))]
        return Prediction(torch.cat([p.x_0 for p in each]), torch.cat([p.eps for p in each]))

    paths = [[999, 749, 499], [499, 249, -1], [749, 499, 249]]
    together = distilled_x_0(denoise, x_t[:3], torch.tensor(paths), schedule)
    for row, path in enumerate(paths):
        alone = distilled_x_0(teacher, x_t[row : row + 1], of(path, 1), schedule)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-9, atol=1e-9)


def test_guidance_is_baked_in(schedule, x_t):
    """With one step to learn from, the target is the guided x_0-hat itself: null + scale (cond - null)."""
    other = Mixture([1.0], [[2.0, 2.0]], [[[0.3, 0.0], [0.0, 0.3]]])
    with_cond, without = MIXTURE.denoiser(schedule), other.denoiser(schedule)

    def denoise(x, t, c):
        said = [(with_cond if bool(c[i]) else without)(x[i : i + 1], t[i : i + 1]) for i in range(len(x))]
        return Prediction(torch.cat([p.x_0 for p in said]), torch.cat([p.eps for p in said]))

    denoiser = guided(denoise, {"c": torch.ones(5)}, {"c": torch.zeros(5)}, 3.0)
    t = torch.full((5,), 749)
    null, cond = without(x_t, t), with_cond(x_t, t)
    expected = null.x_0 + 3 * (cond.x_0 - null.x_0)
    torch.testing.assert_close(distilled_x_0(denoiser, x_t, of([749, 499]), schedule), expected, rtol=1e-9, atol=1e-9)
    landed = steps(denoiser, x_t, [749, 499, 249], schedule)
    x_0 = distilled_x_0(denoiser, x_t, of([749, 499, 249]), schedule)
    eps = process.eps_from_x_0(schedule, x_t, x_0, 749)
    torch.testing.assert_close(process.q_sample(schedule, x_0, 249, eps), landed, rtol=1e-9, atol=1e-9)


def test_the_x_0_of_a_ddim_step_comes_back(schedule, generator):
    x_0, eps = (torch.randn(6, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    t, t_end = torch.tensor([999, 999, 700, 500, 250, 0]), torch.tensor([500, -1, 699, 20, 0, -1])
    x_t, x_end = process.q_sample(schedule, x_0, t, eps), process.q_sample(schedule, x_0, t_end, eps)
    torch.testing.assert_close(x_0_of_step(schedule, x_t, x_end, t, t_end), x_0, rtol=1e-8, atol=1e-8)

import pytest
import torch
from conftest import D, SIDE, TEXT_WIDTH

from unclip.diffusion import SeededNoise
from unclip.distillation import Distillation
from unclip.errors import UserError

STEPS = [4, 2, 1]


def distillation(teacher, **options):
    return Distillation(teacher, **{"steps": STEPS, "teacher_steps": 8, "guidance_scale": 3.0, **options})


def generator(seed=7):
    return torch.Generator().manual_seed(seed)


def pictures(n, **more):
    """A training batch of n."""
    g = generator(3)
    image = torch.randint(0, 256, (n, 3, SIDE, SIDE), generator=g, dtype=torch.uint8)
    return {"image": image, "image_embed": torch.randn(n, D, generator=g), **more}


def drawn(decoder, embed, steps, scale, **options):
    noise = SeededNoise(range(len(embed)))
    return decoder.sample(embed, noise=noise, num_inference_steps=steps, guidance_scale=scale, **options)


def stand_in(decoder, network):
    """Let a decoder's network be another, which gets the conditions as they come, not as the decoder reads them."""
    decoder.read, decoder.denoiser.network = lambda image_embed, **more: {"image_embed": image_embed, **more}, network


# ---- the student -----------------------------------------------------------------------------------------------------

def test_the_student_begins_as_its_teacher(make_decoder):
    """Whatever number of steps it is told: it says what the teacher says without guidance."""
    teacher = make_decoder()
    student, embed = distillation(teacher).student, torch.randn(3, D, generator=generator())
    for steps in STEPS:
        assert torch.equal(drawn(student, embed, steps, 1.0), drawn(teacher, embed, steps, 1.0))


def test_it_is_told_in_how_many_steps_it_draws(make_decoder):
    student, embed = distillation(make_decoder()).student, torch.randn(1, D, generator=generator())
    torch.nn.init.normal_(student.steps_to_time.weight)
    x, t = torch.randn(1, 3, SIDE, SIDE, generator=generator()), torch.tensor([999])
    said = [student.guided(embed, guidance_scale=1.0, num_inference_steps=n)(x, t).x_0 for n in STEPS]
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(said, said[1:]))


def test_it_takes_one_forward_a_step_at_the_timesteps_it_learned(make_decoder):
    model, calls = distillation(make_decoder()), []
    network, read = model.student.network, model.student.read

    def spy(x_t, t, **cond):
        calls.append((len(x_t), int(t[0]), int(cond["steps"][0])))
        return network(x_t, t, **read(**cond))

    stand_in(model.student, spy)
    for k, steps in enumerate(STEPS):
        calls.clear()
        drawn(model.student, torch.zeros(3, D), steps, 1.0)
        assert calls == [(3, t, k) for t in model.paths(k)[:, 0].tolist()]


def test_other_numbers_of_steps_are_refused(make_decoder):
    student = distillation(make_decoder()).student
    with pytest.raises(UserError, match="3 steps: this decoder was distilled and draws in 4, 2, 1: choose one"):
        drawn(student, torch.zeros(1, D), 3, 1.0)


@pytest.mark.parametrize("options, changes, says", [
    ({"learned_variance": True, "vlb_weight": 1e-3}, {}, "learned its variance"),
    ({"prediction": "eps"}, {}, "predicts eps"),
    ({"step_counts": [4]}, {}, "was distilled already"),
    ({}, {"teacher_steps": 10}, "has to divide"),
    ({}, {"teacher_steps": 4}, "has to divide"),
    ({}, {"steps": [4, 3]}, "has to divide"),
    ({}, {"steps": [2, 4]}, "has to divide"),
    ({}, {"steps": [4, 2, 0]}, "has to divide"),
    ({}, {"steps": []}, "has to divide"),
    ({"num_timesteps": 12}, {"teacher_steps": 16}, "the teacher has 12 timesteps"),
])  # fmt: skip
def test_what_cannot_be_distilled_ends_in_a_line(make_decoder, options, changes, says):
    with pytest.raises(UserError, match=says) as error:
        distillation(make_decoder(**options), **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("teacher_steps", [8, 16, 24, 500])
@pytest.mark.parametrize("T", [500, 1000, 1001])
def test_paths_lead_from_one_timestep_of_a_drawing_to_the_next(make_decoder, teacher_steps, T):
    model = distillation(make_decoder(num_timesteps=T), teacher_steps=teacher_steps)
    for k, (steps, finer) in enumerate(zip(STEPS, [teacher_steps, 4, 2])):
        paths = model.paths(k)
        assert paths.shape == (steps, finer // steps + 1) and (paths.diff(dim=1) < 0).all()
        assert paths[:, 0].tolist() == model.student.timesteps(steps).tolist()
        assert paths[1:, 0].tolist() == paths[:-1, -1].tolist() and paths[-1, -1] == -1
        assert paths[:, :-1].flatten().tolist() == model.student.schedule.timesteps(finer, "trailing").tolist()


def test_the_teacher_is_guided_where_its_drawing_is(make_decoder):
    """Steps of a batch lie anywhere on the way; each sample's are guided as in a drawing with the same interval."""
    teacher = make_decoder()
    model = distillation(teacher, guidance_start=0.25, guidance_end=0.75)
    embed, x = torch.randn(4, D, generator=generator()), torch.randn(4, 3, SIDE, SIDE, generator=generator())
    t = torch.tensor([999, 600, 400, 100])
    found = model.denoiser(0, embed)(x, t).x_0
    for k, scale in enumerate([1.0, 3.0, 3.0, 1.0]):
        alone = teacher.guided(embed[k : k + 1], guidance_scale=scale)(x[k : k + 1], t[k : k + 1]).x_0
        torch.testing.assert_close(found[k : k + 1], alone, atol=1e-4, rtol=1e-4)


# ---- the loss --------------------------------------------------------------------------------------------------------



class Say:
    """In the place of a decoder's network: its raw output is x_0-hat."""

    def __init__(self, of):
        self.of = of

    def __call__(self, x_t, t, image_embed, steps=None):
        return self.of(x_t, t, image_embed, steps)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_perfect_student_has_no_loss_and_draws_what_the_guided_teacher_draws(make_decoder, scale):
    """The teacher's x_0-hat is a point of its own for every embedding and none for the absent image, so the guided one
    is known; a student that always says it is right in any number of steps, and one that ignores guidance is not."""
    teacher = make_decoder(prediction="x_0")
    torch.nn.init.zeros_(teacher.null_image)

    def point(embed):
        return (0.1 + 0.05 * torch.tanh(embed[:, :3]))[:, :, None, None].expand(-1, -1, SIDE, SIDE)

    def guided_point(embed):
        null = point(torch.zeros_like(embed))
        return null + scale * (point(embed) - null)

    model, batch = distillation(teacher, guidance_scale=scale), pictures(24)
    stand_in(teacher, Say(lambda x, t, embed, steps: point(embed)))
    stand_in(model.student, Say(lambda x, t, embed, steps: guided_point(embed)))
    assert model.loss(batch, generator())[0].max() < 1e-9
    embed = batch["image_embed"]
    for steps in STEPS:
        expected = drawn(teacher, embed, 8, scale)
        torch.testing.assert_close(drawn(model.student, embed, steps, 1.0), expected, atol=1e-5, rtol=0)
    model.student.denoiser.network = Say(lambda x, t, embed, steps: point(embed))
    assert (model.loss(batch, generator())[0].max() > 1e-5) == (scale != 1)


@pytest.mark.parametrize("prediction", ["x_0", "v"])
def test_the_loss_is_the_squared_error_of_v_against_where_the_teacher_lands(make_decoder, prediction):
    """Against the paper's formula, sample by sample, with the networks of a student that already differs."""
    teacher = make_decoder(prediction=prediction)
    model, batch = distillation(teacher), pictures(6)
    torch.nn.init.normal_(model.student.steps_to_time.weight)
    seen, network, read = [], model.student.network, model.student.read
    stand_in(model.student, lambda x, t, **c: seen.append((x, t, c)) or network(x, t, **read(**c)))
    losses, time = model.loss(batch, generator())
    x_t, t, cond = seen[0]
    del model.student.read
    model.student.denoiser.network = network
    torch.testing.assert_close(time, t / 1000)
    for i in range(6):
        x, embed, k = x_t[i : i + 1], cond["image_embed"][i : i + 1], int(cond["steps"][i])
        finer = [8, 4, 2][k]
        levels = [*teacher.schedule.timesteps(finer, "trailing").tolist(), -1]
        at = levels.index(int(t[i]))
        path = levels[at : at + finer // STEPS[k] + 1]
        guide = teacher.guided(embed, guidance_scale=3.0)
        own = [teacher, model.student, model.student][k]
        if k:
            guide = own.guided(embed, guidance_scale=1.0, num_inference_steps=finer)
        landed = x
        with torch.no_grad():
            for a, b in zip(path, path[1:]):
                said, alpha_bar = guide(landed, torch.tensor([a])), teacher.schedule.alpha_bar_at(b)
                landed = alpha_bar.sqrt().float() * said.x_0 + (1 - alpha_bar).sqrt().float() * said.eps
            alpha_bar, end = teacher.schedule.alpha_bar_at(path[0]), teacher.schedule.alpha_bar_at(path[-1])
            alpha, sigma, alpha_end, sigma_end = (float(c.sqrt()) for c in (alpha_bar, 1 - alpha_bar, end, 1 - end))
            target = (landed - sigma_end / sigma * x) / (alpha_end - sigma_end / sigma * alpha)
            said = model.student.denoiser(x, t[i : i + 1], **read(embed, steps=cond["steps"][i : i + 1])).x_0
            v, v_target = (alpha * (x - alpha * x_0) / sigma - sigma * x_0 for x_0 in (said, target))
        torch.testing.assert_close(losses[i], (v - v_target).square().mean(), rtol=1e-3, atol=1e-5)


def test_all_numbers_of_steps_and_all_their_timesteps_are_drawn_as_often(make_decoder):
    model, seen = distillation(make_decoder(prediction="x_0")), []
    for decoder in (model.teacher, model.student):
        stand_in(decoder, Say(lambda x, t, embed, steps: 0 * x))
    stand_in(model.student, Say(lambda x, t, embed, steps: seen.append((t, steps)) or 0 * x))
    model.loss(pictures(240), generator())
    t, k = seen[0]
    counts = {(steps, at): int(((k == level) & (t == at)).sum()) for level, steps in enumerate(STEPS)
              for at in model.student.timesteps(steps).tolist()}  # fmt: skip
    assert sum(counts.values()) == 240
    for (steps, _), count in counts.items():
        assert abs(count - 240 / 3 / steps) <= 1


@pytest.mark.parametrize("half", [False, True])
def test_gradients_reach_the_student_alone(make_decoder, half):
    """Also under autocast, which keeps casted weights: those cast without a gradient must not be used with one."""
    model = distillation(make_decoder())
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = model.loss(pictures(12), generator())[0].mean()
    loss.backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    for name, p in model.student.named_parameters():
        if name == "null_image":
            assert p.grad is None and not p.requires_grad
        else:
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name
    names = {name for name, _ in model.named_parameters()}
    assert names == {f"student.{name}" for name, _ in model.student.named_parameters()}
    assert model.state_dict().keys() == {f"student.{name}" for name in model.student.state_dict()}


def test_a_batch_of_one_and_one_with_captions(make_decoder, batch):
    assert distillation(make_decoder()).loss(pictures(1), generator())[0].shape == (1,)
    model = distillation(make_decoder(text_dim=TEXT_WIDTH))
    assert model.loss(batch, generator())[0].isfinite().all()


class Affine(torch.nn.Module):
    """x_0-hat = p x_t + q mu(embed), with p and q of its own for every number of steps and timestep."""

    def __init__(self, p, q):
        super().__init__()
        self.p, self.q = (torch.nn.Parameter(a.float().expand(3, -1).clone()) for a in (p, q))

    def forward(self, x_t, t, image_embed, steps=None):
        k = torch.zeros_like(t) if steps is None else steps
        p, q = (a[k, t][:, None, None, None] for a in (self.p, self.q))
        return p * x_t + q * mu(image_embed)


def mu(embed):
    return 0.1 * torch.tanh(embed[:, :3])[:, :, None, None]


def test_a_tiny_distillation_draws_in_few_steps_what_the_guided_teacher_draws_in_many(make_decoder):
    """The teacher is the exact denoiser of N(mu(embed), 0.2^2). A step of it, or several, is affine, so that a student with
    a table of coefficients can learn it wholly: from the teacher's own weights to its drawings in 8 guided steps."""
    teacher = make_decoder(prediction="x_0")
    torch.nn.init.zeros_(teacher.null_image)
    alpha_bar = teacher.schedule.alpha_bar
    gain = alpha_bar.sqrt() * 0.2**2 / (alpha_bar * 0.2**2 + 1 - alpha_bar)
    network = Affine(gain, 1 - gain * alpha_bar.sqrt())
    stand_in(teacher, network.requires_grad_(False))
    model, batch = distillation(teacher, guidance_scale=2.0), pictures(48)
    student = Affine(network.p[0], network.q[0])
    stand_in(model.student, student)
    embed = torch.randn(8, D, generator=generator(1))
    aim = drawn(teacher, embed, 8, 2.0)

    def distances():
        return [(drawn(model.student, embed, n, 1.0) - aim).square().mean().sqrt().item() for n in STEPS]

    before, g = distances(), generator()
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 200)
        optimizer.zero_grad()
        model.loss(batch | {"image_embed": torch.randn(48, D, generator=g)}, g)[0].mean().backward()
        optimizer.step()
    assert min(before) > 0.03 and max(distances()) < 0.1 * min(before), (before, distances())

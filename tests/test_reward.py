import pytest
import torch
from conftest import D, SIDE, TEXT_WIDTH
from networks.randomness import randomise

from unclip.diffusion import SeededNoise, process
from unclip.errors import UserError
from unclip.reward import RewardTuning

STEPS, GUIDANCE = 6, {"guidance_scale": 2.5, "guidance_start": 0.2, "guidance_end": 0.7}


def brightness(pictures, labels, generator=None):
    """A reward that everyone understands; label 1 wants it dark."""
    return pictures.flatten(1).mean(1) * (1 - 2 * labels)


@pytest.fixture
def make_tuning(make_decoder):
    def make(reward=brightness, moved=0.0, **options):
        options = {"num_inference_steps": STEPS, "trained_steps": STEPS, "closeness": 0.0, **GUIDANCE, **options}
        model = RewardTuning(make_decoder(), reward, **options)
        if moved:
            randomise(model.decoder, std=moved)
        return model

    return make


def batch(count=3, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return {"image_embed": torch.randn(count, D, generator=generator), "label": torch.arange(count) % 2}


def test_it_begins_as_the_reference_and_the_loss_is_less_the_reward_of_what_it_draws(make_tuning):
    model, seen = make_tuning(), []
    model._beside[1] = lambda pictures, labels, generator: seen.append(pictures) or brightness(pictures, labels)
    assert all(torch.equal(a, b) for a, b in zip(model.decoder.state_dict().values(), model.reference.state_dict().values()))
    with torch.no_grad():
        loss, t = model.loss(batch(), torch.Generator().manual_seed(7))
    seeds = torch.randint(2**31, (3,), generator=torch.Generator().manual_seed(7)).tolist()
    drawn = model.reference.sample(
        batch()["image_embed"], noise=SeededNoise(seeds), num_inference_steps=STEPS, sampler="dpm++", **GUIDANCE
    )
    assert t is None and torch.equal(seen[0], drawn)
    assert torch.allclose(loss, -brightness(drawn, batch()["label"]))


def gradient(scalar, decoder):
    named = [p for name, p in decoder.named_parameters() if name != "null_image"]
    return torch.autograd.grad(scalar, named)


def held_path(model, embed):
    """A way to a picture by DDIM, guided, whose networks are shown what `path` has: (the picture, with gradients; path).

    From the equations: x_t' = sqrt(alpha_bar') x_0-hat + sqrt(1 - alpha_bar') eps-hat. x_t itself goes on with its gradients,
    what the network is shown has none.
    """
    decoder, schedule = model.decoder, model.decoder.schedule
    times = [*decoder.timesteps(STEPS).tolist(), -1]
    x, path = SeededNoise(range(len(embed)))((len(embed), 3, SIDE, SIDE)).double(), []
    for t, t_prev in zip(times[:-1], times[1:]):
        path.append(x.detach().float())
        at = torch.full((len(embed),), t)
        v = decoder.network(path[-1], at, **decoder.read(embed)).double()
        share = (schedule.num_timesteps - 1 - t) / schedule.num_timesteps
        if GUIDANCE["guidance_start"] <= share < GUIDANCE["guidance_end"]:
            with torch.no_grad():
                null = decoder.network(path[-1], at, **decoder.read(decoder.null_image.expand_as(embed))).double()
            v = null + GUIDANCE["guidance_scale"] * (v - null)
        x_0, eps = process.x_0_from_v(schedule, x, v, at), process.eps_from_v(schedule, x, v, at)
        alpha_bar = schedule.alpha_bar_at(t_prev)
        x = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps
    return x, path


def test_steps_are_told_what_ddim_says_the_picture_owes_to_them(make_tuning):
    """Autograd through DDIM, whose networks' inputs are held fixed, gives the same gradient of every weight."""
    model, embed = make_tuning(moved=0.2), batch()["image_embed"]
    uphill = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    picture, path = held_path(model, embed)
    expected = gradient((picture * uphill).sum(), model.decoder)
    towards, _ = model.taught(embed, path, uphill, list(range(STEPS)))
    ours = gradient(towards.sum(), model.decoder)
    largest = max(float(e.abs().max()) for e in expected)
    assert largest > 0.1
    assert all(torch.allclose(a, e, rtol=1e-3, atol=1e-5 * largest) for a, e in zip(ours, expected))


def test_some_steps_stand_for_all(make_tuning):
    """On average over single steps, what is taught is what all of them are."""
    model, embed = make_tuning(moved=0.2), batch()["image_embed"]
    uphill = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    _, path = held_path(model, embed)
    whole, far = model.taught(embed, path, uphill, list(range(STEPS)))
    single = [model.taught(embed, path, uphill, [k]) for k in range(STEPS)]
    assert torch.allclose(torch.stack([towards for towards, _ in single]).mean(0), whole, rtol=1e-4, atol=1e-5)
    assert torch.allclose(torch.stack([distance for _, distance in single]).mean(0), far, rtol=1e-4)


def test_the_steps_that_learn_lie_spread_over_the_way(make_tuning):
    model, drawn = make_tuning(num_inference_steps=8, trained_steps=4), []
    torch.manual_seed(0)
    for _ in range(400):
        drawn.append(model.drawn_places())
    drawn = torch.tensor(drawn)
    assert ((drawn // 2) == torch.arange(4)).all()  # one in each quarter
    assert (drawn % 2).double().mean(0).sub(0.5).abs().max() < 0.1  # either of its two, as often


def test_the_distance_is_that_of_what_both_say_at_the_same_place(make_tuning):
    model, embed = make_tuning(), batch()["image_embed"]
    _, path = held_path(model, embed)
    assert model.taught(embed, path, torch.zeros_like(path[0]), [1, 4])[1].abs().max() == 0
    randomise(model.decoder, std=0.2)
    times = model.decoder.timesteps(STEPS)

    def v(decoder, k):
        return decoder.network(path[k], times[k].expand(3), **decoder.read(embed))

    expected = sum((v(model.decoder, k) - v(model.reference, k)).square().sum(dim=(1, 2, 3)) / 2 for k in (1, 4))
    assert torch.allclose(model.taught(embed, path, torch.zeros_like(path[0]), [1, 4])[1], expected, rtol=1e-3)


def test_closeness_alone_leads_back(make_tuning):
    model = make_tuning(reward=lambda pictures, labels, generator: 0 * brightness(pictures, labels), moved=0.15, closeness=1.0)
    optimizer, losses = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model.loss(batch())[0].mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_it_learns_to_draw_what_is_rewarded_as_the_label_says(make_tuning):
    """From embeddings and noise that it has not seen, in other steps of another sampler."""
    model = make_tuning(trained_steps=2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    embed = batch(200, seed=11)["image_embed"]
    label = (embed[:, 0] > 0).long()  # told by the embedding, so that it can be learned

    def drawn():
        how = {"num_inference_steps": 9, "sampler": "ddpm", **GUIDANCE}
        pictures = model.decoder.sample(embed[160:], noise=SeededNoise(range(40)), **how)
        return brightness(pictures, label[160:]).mean()

    before = drawn()
    torch.manual_seed(1)
    for step in range(40):
        rows = torch.randint(160, (8,))
        optimizer.zero_grad()
        model.loss({"image_embed": embed[rows], "label": label[rows]})[0].mean().backward()
        optimizer.step()
    assert drawn() > before + 0.1


def test_only_the_decoder_learns_and_is_saved(make_tuning):
    model = make_tuning()
    before = {k: v.clone() for k, v in model.reference.state_dict().items()}
    assert all(k.startswith("decoder.") for k in model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    model.loss(batch())[0].mean().backward()
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in model.reference.state_dict().items())
    assert any(not torch.equal(before[k], v) for k, v in model.decoder.state_dict().items())


@pytest.mark.parametrize("options, says", [
    ({"text_dim": TEXT_WIDTH}, "reads captions"),
    ({"step_counts": [4]}, "was distilled"),
    ({"prediction": "eps"}, "predicts v"),
    ({"learned_variance": True, "vlb_weight": 0.001}, "no variance"),
])  # fmt: skip
def test_decoders_that_cannot_be_tuned_so(make_decoder, options, says):
    with pytest.raises(UserError, match=says):
        RewardTuning(make_decoder(**options), brightness, **GUIDANCE)


@pytest.mark.parametrize("steps, learn", [(4, 5), (4, 0), (2000, 4)])
def test_steps_that_do_not_fit(make_decoder, steps, learn):
    with pytest.raises(UserError, match=f"{learn} of {steps} steps learn"):
        RewardTuning(make_decoder(), brightness, num_inference_steps=steps, trained_steps=learn, **GUIDANCE)

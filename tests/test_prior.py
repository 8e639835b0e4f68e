import math

import pytest
import torch
import torch.nn.functional as F
from conftest import random_text

from unclip.conditioning import TEXT_KEYS, drawn
from unclip.diffusion import SAMPLERS, SeededNoise, composed, draw_timesteps, guided
from unclip.prior import DiffusionPrior


def generator():
    return torch.Generator().manual_seed(7)


def repeated(null, batch):
    return {k: v.expand(batch, *v.shape[1:]) for k, v in null.items()}


def record(part):
    """Let a part's network note what it is called with."""
    calls, network = [], part.denoiser.network

    def spy(x_t, t, **cond):
        calls.append({"x_t": x_t, "t": t, **cond})
        return network(x_t, t, **cond)

    part.denoiser.network = spy
    return calls


# ---- sampling --------------------------------------------------------------------------------------------------------

def test_of_two_samples_the_nearer_is_kept(make_prior):
    prior = make_prior()
    batch = 16
    text = {
        "text_embed": torch.randn(batch, 16, generator=generator()),
        "text_states": torch.randn(batch, 12, 16, generator=generator()),
        "text_mask": torch.ones(batch, 12, dtype=torch.bool),
    }
    null = {k: v[:1] for k, v in text.items()}
    options = {"num_inference_steps": 3, "guidance_scale": 2.0}
    kept = prior.sample(text, null, noise=SeededNoise(range(batch)), num_samples=2, **options)

    noise = SeededNoise(range(batch))
    both = [prior.sample(text, null, noise=noise, num_samples=1, **options) for _ in range(2)]
    cosines = [F.cosine_similarity(x, text["text_embed"]) for x in both]
    second_is_nearer = cosines[1] > cosines[0]
    assert 0 < second_is_nearer.sum() < batch  # else the test could not tell "nearer" from "first"
    torch.testing.assert_close(kept, torch.where(second_is_nearer[:, None], both[1], both[0]))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("with_parts", [False, True])
def test_samples_drawn_at_once_are_those_of_a_plain_loop(text, make_prior, sampler, with_parts):
    """Same seeds, same embeddings: each picture's stream of noise is used up sample by sample."""
    prior = make_prior()
    captions, empty = text
    null = repeated(empty, 3)
    parts, weights = (random_text(3, seed=4), captions), torch.tensor([[2.0, 0.5, 1.0], [-0.3, 1.0, 0.0]])
    if with_parts:
        denoise = composed(prior.denoiser, [prior.read(part) for part in parts], prior.read(null), 1.5 * weights)
    else:
        denoise = guided(prior.denoiser, prior.read(captions), prior.read(null), 1.5)

    noise, timesteps, drawn_embeds = SeededNoise([5, 6, 7]), prior.schedule.timesteps(6, spacing=prior.spacing), []
    with torch.no_grad():
        for _ in range(4):
            x_0 = SAMPLERS[sampler](denoise, noise((3, 16)), timesteps, prior.schedule, noise=noise)
            drawn_embeds.append(x_0 * prior.std + prior.mean)
    cosines = [F.cosine_similarity(embed, captions["text_embed"]) for embed in drawn_embeds]
    best = torch.stack(cosines).argmax(0)
    assert len(set(best.tolist())) > 1  # else the test could not tell the samples of one picture from another's
    expected = torch.stack([drawn_embeds[k][row] for row, k in enumerate(best)])

    at_once = SeededNoise([5, 6, 7])
    chosen = {"parts": parts, "weights": weights} if with_parts else {}
    embeds = prior.sample(
        captions, empty, **chosen, noise=at_once, num_inference_steps=6, guidance_scale=1.5, num_samples=4, sampler=sampler
    )
    torch.testing.assert_close(embeds, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(at_once((3, 2)), noise((3, 2)))  # no more was taken of the streams, and no less


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_the_output_is_un_normalised(text, noise, steps, sampler):
    """A network that always says 'one standard deviation above the mean' must give just that, in CLIP's units."""
    transformer = {"text_dim": 16, "text_length": 12, "width": 32, "layers": 1, "heads": 2}
    prior = DiffusionPrior(transformer=transformer, embed_dim=16)
    embeds = 40 * torch.randn(500, 16, generator=generator()) + 100
    prior.set_statistics(embeds)
    torch.nn.init.ones_(prior.transformer.out.bias)  # its weight starts at zero
    drawn_embed = prior.sample(*text, noise=noise, num_inference_steps=steps, guidance_scale=3.0, sampler=sampler)
    expected = (embeds.mean(0) + embeds.std(0, correction=0)).expand(3, 16)
    torch.testing.assert_close(drawn_embed, expected, rtol=1e-4, atol=1e-3)


def test_clamp_is_in_standard_deviations(text, noise, make_prior):
    prior = make_prior(clamp=0.5)
    torch.nn.init.constant_(prior.transformer.out.bias, 100.0)
    embed = prior.sample(*text, noise=noise, num_inference_steps=1)
    torch.testing.assert_close(embed, (prior.mean + 0.5 * prior.std).expand(3, 16))


def test_guidance_drops_the_text_alone(text, noise, make_prior):
    """The unconditional half sees the same noised embedding and the empty caption, nothing else changes."""
    prior = make_prior()
    captions, empty = text
    calls = record(prior)
    prior.sample(captions, empty, noise=noise, num_inference_steps=4, guidance_scale=2.0, num_samples=2)
    assert len(calls) == 4  # once a step, for both samples and both halves
    for call in calls:
        assert len(call["x_t"]) == 2 * 3 * 2
        assert torch.equal(call["x_t"][:6], call["x_t"][6:])
        assert torch.equal(call["t"][:6], call["t"][6:])
        for key, of_captions in prior.read(captions).items():
            assert torch.equal(call[key][:3], of_captions)
            assert torch.equal(call[key][3:], prior.read(repeated(empty, 3))[key])


def test_a_caption_is_read_once_whatever_the_steps_and_samples(text, noise, make_prior):
    prior = make_prior()
    read, calls = prior.transformer.read, []
    prior.transformer.read = lambda *given: calls.append(len(given[0])) or read(*given)
    prior.sample(*text, noise=noise, num_inference_steps=4, guidance_scale=2.0, num_samples=5)
    assert calls == [3, 3]  # the captions, and the empty one


def test_scale_zero_is_the_empty_caption_and_still_denoises(text, make_prior):
    prior = make_prior()
    captions, empty = text
    options = {"num_inference_steps": 3, "num_samples": 1}
    by_scale = prior.sample(captions, empty, noise=SeededNoise([1, 2, 3]), guidance_scale=0.0, **options)
    by_text = prior.sample(repeated(empty, 3), empty, noise=SeededNoise([1, 2, 3]), guidance_scale=1.0, **options)
    torch.testing.assert_close(by_scale, by_text)
    assert (by_scale[0] - by_scale[1]).abs().max() > 1e-3  # two noises, two embeddings: x_t was not dropped


def test_scale_one_is_not_doubled(text, noise, make_prior):
    prior = make_prior()
    calls = record(prior)
    prior.sample(*text, noise=noise, num_inference_steps=4, guidance_scale=1.0, num_samples=1)
    assert [len(call["x_t"]) for call in calls] == [3] * 4


def test_conditions_are_not_modified(text, noise, make_prior):
    before = [{k: v.clone() for k, v in part.items()} for part in text]
    make_prior().sample(*text, noise=noise, num_inference_steps=2, guidance_scale=3.0)
    for part, copy in zip(text, before):
        assert part.keys() == copy.keys()
        assert all(torch.equal(part[k], copy[k]) for k in part)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_draws_about_the_same(text, make_prior, dtype):
    prior = make_prior()
    options = {"num_inference_steps": 4, "guidance_scale": 2.0, "num_samples": 1}
    full = prior.sample(*text, noise=SeededNoise([1, 2, 3]), **options)
    half = prior.to(dtype).sample(*text, noise=SeededNoise([1, 2, 3]), **options)
    assert half.dtype == torch.float32
    assert (half - full).norm() < 0.05 * (full - full.mean(0)).norm()


# ---- the loss --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_loss_is_algorithm_1_on_standardised_embeddings(batch, make_prior, prediction):
    prior = make_prior(prediction=prediction, text_drop=0.0)
    loss, time = prior.loss(batch, generator())

    z = (batch["image_embed"].double() - prior.mean) / prior.std
    draws = generator()
    t = draw_timesteps(3, 1000, draws)
    eps = torch.randn(3, 16, generator=draws).double()
    f = [math.cos((s / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for s in range(1001)]  # improved DDPM, eq. 17
    alpha_bar = torch.tensor([f[s + 1] / f[0] for s in t.tolist()], dtype=torch.float64)[:, None]
    x_t = alpha_bar.sqrt() * z + (1 - alpha_bar).sqrt() * eps
    with torch.no_grad():
        said = prior.transformer(x_t.float(), t, batch["text_embed"], batch["text_states"], batch["text_mask"])
    meant = {"eps": eps, "x_0": z, "v": alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * z}[prediction]
    torch.testing.assert_close(loss.double(), ((said - meant) ** 2).mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(time, t / 1000)


def with_other_text(batch, prefix=""):
    changed = {prefix + k: batch[prefix + k].roll(1, -1) for k in ("text_embed", "text_states")}
    return {**batch, **changed}


def test_text_drop_one_reads_the_empty_caption_only(batch, make_prior):
    prior = make_prior(text_drop=1.0)
    loss, other = prior.loss(batch, generator())[0], prior.loss(with_other_text(batch), generator())[0]
    assert torch.equal(loss, other)
    assert not torch.allclose(loss, prior.loss(with_other_text(batch, "null_"), generator())[0])


def test_text_drop_zero_reads_the_caption_only(batch, make_prior):
    prior = make_prior(text_drop=0.0)
    loss, other = prior.loss(batch, generator())[0], prior.loss(with_other_text(batch), generator())[0]
    assert (loss - other).abs().min() > 1e-6
    assert torch.equal(loss, prior.loss(with_other_text(batch, "null_"), generator())[0])


def test_the_share_of_dropped_captions(make_prior):
    prior = make_prior(text_drop=0.3)
    n = 2000
    text = {"text_embed": torch.ones(n, 16), "text_states": torch.ones(n, 12, 16),
            "text_mask": torch.ones(n, 12, dtype=torch.bool)}  # fmt: skip
    null = {f"null_{k}": torch.zeros_like(v[:1]) for k, v in text.items()}
    seen = {}
    prior.transformer.read = lambda *given: seen.update(zip(TEXT_KEYS, given)) or torch.zeros(n)
    prior.denoiser.network = lambda x_t, t, **cond: x_t
    prior.loss({"image_embed": torch.randn(n, 16), **text, **null}, generator())
    dropped = seen["text_embed"].sum(1) == 0
    assert abs(dropped.float().mean() - 0.3) < 4 * (0.3 * 0.7 / n) ** 0.5
    assert torch.equal(seen["text_states"].flatten(1).sum(1) == 0, dropped)
    assert torch.equal(~seen["text_mask"].any(1), dropped)


def test_drawn_reaches_both_ends():
    assert not drawn(0.0, 1000, generator(), "cpu").any()
    assert drawn(1.0, 1000, generator(), "cpu").all()


def test_statistics_are_of_the_training_set_and_saved(make_prior, tmp_path):
    prior = make_prior()
    embeds = torch.randn(1000, 16, generator=generator()) * torch.arange(1, 17) - 4
    prior.set_statistics(embeds.half())
    torch.testing.assert_close(prior.mean, embeds.mean(0), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(prior.std, embeds.std(0), rtol=1e-2, atol=1e-2)
    prior.save(tmp_path / "prior", dtype=torch.float32)
    assert torch.equal(DiffusionPrior.from_pretrained(tmp_path / "prior").std, prior.std)


def test_karlos_prior_has_its_size():
    with torch.device("meta"):
        prior = DiffusionPrior(
            embed_dim=768, spacing="linspace", clamp=10.0,
            transformer={"text_dim": 768, "text_length": 77, "width": 2048, "layers": 20, "heads": 32},
        )  # fmt: skip
    assert abs(sum(p.numel() for p in prior.parameters()) - 1.02e9) < 0.01e9


def test_one_picture_has_a_mean_and_no_deviation(make_prior):
    """A set of one must not put a NaN into the statistics."""
    prior = make_prior()
    embed = torch.randn(1, 16, generator=generator())
    prior.set_statistics(embed)
    torch.testing.assert_close(prior.mean, embed[0])
    assert (prior.std > 0).all() and (prior.std < 1e-3).all()

import math

import pytest
import torch
from conftest import CONVOLUTIONS
from diffusers import UNet2DModel
from networks.randomness import randomise

from unclip.augmentation import larger, smaller
from unclip.diffusion import SAMPLERS, SeededNoise, draw_timesteps
from unclip.errors import UserError
from unclip.stage import Start
from unclip.upsampler import Upsampler

KARLO = {"prediction": "eps", "spacing": "linspace", "max_noise": 0.0, "max_blur": 0.0, "last_step": True}


def make(**options):
    return randomise(Upsampler(**{"unet": CONVOLUTIONS, "image_size": 16, "scale": 2, **options}))


def generator():
    return torch.Generator().manual_seed(7)


@pytest.fixture
def low():
    return torch.rand(3, 3, 8, 8, generator=generator()) * 2 - 1


@pytest.fixture
def batch():
    draws = generator()
    images = torch.randint(0, 256, (3, 3, 16, 16), generator=draws, dtype=torch.uint8)
    return {"image": images, "image_embed": torch.randn(3, 12, generator=draws)}


def drawn(upsampler, low, *rest, **options):
    noise = SeededNoise(range(1, len(low) + 1))
    return upsampler.sample(low, *rest, noise=noise, **{"num_inference_steps": 3, **options})


# ---- drawing ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("options", [{}, KARLO | {"max_noise": 0.3}, {"scale": 4}, {"max_noise": 0.0, "prediction": "x_0"}, {"residual": 0.2}])
def test_every_form_draws_with_every_sampler(low, sampler, steps, options):
    images = drawn(make(**options), low, sampler=sampler, num_inference_steps=steps, noise_level=0.0)
    side = 8 * options.get("scale", 2)
    assert images.shape == (3, 3, side, side) and images.dtype == torch.float32
    assert images.isfinite().all() and images.abs().max() <= 1
    assert (images[0] - images[1]).abs().max() > 0.01


@pytest.mark.parametrize("height, width", [(4, 8), (12, 6), (2, 2)])
def test_pictures_of_any_size(height, width):
    assert drawn(make(), torch.zeros(1, 3, height, width)).shape == (1, 3, 2 * height, 2 * width)


def test_a_picture_is_the_same_in_a_batch_of_any_size(low):
    upsampler = make()
    together = drawn(upsampler, low, sampler="ddpm")
    alone = [upsampler.sample(low[k : k + 1], noise=SeededNoise([k + 1]), num_inference_steps=3, sampler="ddpm")
             for k in range(3)]  # fmt: skip
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_far_things_do_not_matter():
    """Convolutions only: a change in one corner stays out of the other, so crops teach what whole pictures need."""
    upsampler, low = make(), torch.zeros(1, 3, 64, 64)
    changed = low.clone()
    changed[..., :2, :2] = 1
    difference = (drawn(upsampler, low, noise_level=0.0, num_inference_steps=1)
                  - drawn(upsampler, changed, noise_level=0.0, num_inference_steps=1)).abs()  # fmt: skip
    assert difference[..., :8, :8].max() > 1e-3 and difference[..., -8:, -8:].max() == 0


@pytest.mark.parametrize(
    "change", [{"noise_level": 0.3}, {"grain": 0.3}, {"blur": 0.6}, {"sampler": "ddpm"}, {"num_inference_steps": 4}]
)
def test_every_setting_matters(low, change):
    upsampler = make()
    assert (drawn(upsampler, low) - drawn(upsampler, low, **change)).abs().max() > 1e-3


def told(upsampler, monkeypatch, low, **options):
    """What the network is given and told: (small pictures, noise levels)."""
    seen, conditions = [], upsampler.conditions
    monkeypatch.setattr(upsampler, "conditions", lambda low, level, e: seen.append((low, level)) or conditions(low, level, e))
    drawn(upsampler, low, num_inference_steps=1, **options)
    monkeypatch.undo()
    return seen[0]


def test_pictures_with_a_grain_are_told_as_clean_ones_to_which_that_noise_was_added(low, monkeypatch):
    upsampler = make()
    noised, level = told(upsampler, monkeypatch, low, noise_level=0.28)
    grain = noised / (1 - 0.28**2) ** 0.5  # the noise is in them already, at the pictures' own contrast
    same, same_level = told(upsampler, monkeypatch, grain, grain=0.28)
    torch.testing.assert_close(same, noised)
    assert same_level.tolist() == level.tolist() == pytest.approx([0.28] * 3)


def test_grain_and_noise_make_one_noise_level(low, monkeypatch):
    small, level = told(make(), monkeypatch, torch.zeros_like(low), grain=0.1, noise_level=0.2)
    deviation = 0.1**2 * (1 - 0.2**2) + 0.2**2  # of the grain, shrunk as the pictures are, and of what is added to it
    assert level.square().tolist() == pytest.approx([deviation] * 3) and small.std() == pytest.approx(0.2, rel=0.1)
    _, level = told(make(), monkeypatch, low, grain=0.3, noise_level=0.3)
    assert level.tolist() == pytest.approx([0.3] * 3)  # what it was trained for at most


def test_it_is_told_the_noise_level(low):
    """The same spoilt picture, said to be clean and said to be noisy."""
    upsampler, t = make(), torch.tensor([500] * 3)
    said = [upsampler.network(torch.zeros(3, 3, 16, 16), t, **upsampler.conditions(low, torch.full((3,), level)))
            for level in (0.0, 0.3)]  # fmt: skip
    assert (said[0] - said[1]).abs().max() > 1e-3


def test_the_image_embedding_matters_where_it_is_used(low):
    embed = torch.randn(3, 12, generator=generator())
    told = make(embed_dim=12)
    assert (drawn(told, low, embed) - drawn(told, low, -embed)).abs().max() > 1e-3
    assert torch.equal(drawn(make(), low, embed), drawn(make(), low, None))
    with pytest.raises(ValueError, match="image_embed"):
        drawn(told, low)


def test_the_network_of_the_last_step_takes_the_last_step_alone(low):
    upsampler = make(**KARLO)
    once = [p.clone() for p in (drawn(upsampler, low, noise_level=0.0), drawn(upsampler, low, noise_level=0.0, num_inference_steps=1))]
    torch.nn.init.zeros_(upsampler.unet.conv_out.weight)
    torch.nn.init.zeros_(upsampler.unet.conv_out.bias)
    assert (drawn(upsampler, low, noise_level=0.0) - once[0]).abs().max() > 1e-3
    assert torch.equal(drawn(upsampler, low, noise_level=0.0, num_inference_steps=1), once[1])


# ---- training --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_loss_is_algorithm_1_on_the_enlarged_small_picture(batch, prediction):
    upsampler = make(prediction=prediction, max_blur=0.0, max_noise=0.0)
    loss, time = upsampler.loss(batch, generator())

    x_0 = batch["image"].double() / 255 * 2 - 1
    draws = generator()
    t = draw_timesteps(3, 1000, draws)
    eps = torch.randn(3, 3, 16, 16, generator=draws).double()
    alpha_bar = upsampler.schedule.alpha_bar_at(t)[:, None, None, None]
    x_t = (alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps).float()
    seen = torch.cat([x_t, larger(smaller(x_0.float(), 2), 2)], dim=1)
    with torch.no_grad():
        said = upsampler.unet(seen, t)
    meant = {"eps": eps, "x_0": x_0, "v": alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x_0}[prediction]
    torch.testing.assert_close(loss.double(), ((said - meant) ** 2).mean((1, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(time, t / 1000)


def test_a_residual_is_what_the_enlarged_small_picture_lacks(batch):
    """Algorithm 1 on (x_0 - enlarged) / residual: a network that says so exactly has no loss."""
    upsampler = make(residual=0.25, max_blur=0.0, max_noise=0.0, prediction="x_0")
    x_0 = batch["image"] / 127.5 - 1
    upsampler.denoiser.network = lambda x_t, t, enlarged, **cond: (x_0 - enlarged) / 0.25
    assert upsampler.loss(batch, generator())[0].max() < 1e-8
    torch.testing.assert_close(drawn(upsampler, smaller(x_0, 2)), x_0, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_upsampler_of_residuals_that_says_nothing_enlarges(low, sampler):
    upsampler = make(residual=0.25, max_noise=0.0, prediction="x_0")
    upsampler.denoiser.network = lambda x_t, t, **cond: torch.zeros_like(x_t)
    torch.testing.assert_close(drawn(upsampler, low, sampler=sampler), larger(low, 2).clamp(-1, 1), rtol=0, atol=1e-5)


def test_an_upsampler_of_residuals_keeps_what_a_mask_keeps_and_shows_pictures(low):
    upsampler, seen = make(residual=0.25), []
    x_0, mask = torch.rand(3, 3, 16, 16, generator=generator()) * 2 - 1, torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    images = drawn(upsampler, low, start=Start(x_0, mask=mask), callback=lambda *step: seen.append(step))
    torch.testing.assert_close(images[..., 8:], x_0[..., 8:], rtol=0, atol=1e-5)
    assert (images[..., :8] - x_0[..., :8]).abs().mean() > 0.1
    i, n, x_t, prediction = seen[-1]
    assert (i, n) == (2, 3)
    torch.testing.assert_close(prediction.x_0[..., 8:], x_0[..., 8:], rtol=0, atol=1e-5)
    alpha_bar = upsampler.schedule.alpha_bar_at(int(upsampler.timesteps(3)[0]))
    enlarged = larger(low, 2)
    noise = (seen[0][2] - enlarged - alpha_bar.sqrt() * (x_0 - enlarged)) / 0.25
    assert noise.std() < 1.2  # it begins with the picture, noised, in the space of residuals


def test_training_spoils_the_small_picture_within_the_set_strengths(batch):
    upsampler, seen = make(max_blur=0.0, max_noise=0.5), []
    network = upsampler.denoiser.network
    upsampler.denoiser.network = lambda x_t, t, **cond: seen.append(cond) or network(x_t, t, **cond)
    batch = {"image": torch.full((400, 3, 16, 16), 128, dtype=torch.uint8)}
    upsampler.loss(batch, generator())
    level = seen[0]["noise_level"]
    assert 0 <= level.min() < 0.05 and 0.45 < level.max() < 0.5
    flat = 128 / 127.5 - 1
    noise = (smaller(seen[0]["enlarged"], 2) - flat * (1 - level**2).sqrt()[:, None, None, None]).flatten(1).std(1)
    assert torch.corrcoef(torch.stack([noise, level]))[0, 1] > 0.9  # what it is told is what was done


def test_the_small_picture_is_spoilt_in_float32_under_autocast(batch):
    """As it is when pictures are drawn: a blur in bfloat16 would darken them."""
    upsampler, seen = make(max_noise=0.0, max_blur=0.6), []
    network = upsampler.denoiser.network
    upsampler.denoiser.network = lambda x_t, t, **cond: seen.append(cond) or network(x_t, t, **cond)
    flat = {"image": torch.full((8, 3, 16, 16), 77, dtype=torch.uint8)}
    with torch.autocast("cpu", torch.bfloat16):
        upsampler.loss(flat, generator())
    assert seen[0]["enlarged"].dtype == torch.float32
    torch.testing.assert_close(seen[0]["enlarged"], torch.full((8, 3, 16, 16), 77 / 127.5 - 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("options, moves", [({}, True), ({"max_blur": 0.0, "max_noise": 0.0}, False)])
def test_spoiling_can_be_left_out(batch, options, moves):
    upsampler, seen = make(**options), []
    upsampler.denoiser.network = lambda x_t, t, enlarged, **cond: seen.append(enlarged) or x_t
    upsampler.loss(batch, generator())
    clean = larger(smaller(batch["image"] / 127.5 - 1, 2), 2)
    assert ((seen[0] - clean).abs().amax() > 0.01) == moves


def test_it_trains_on_crops_and_draws_whole_pictures(batch, low):
    upsampler, seen = make(crop=8), []
    network = upsampler.denoiser.network
    upsampler.denoiser.network = lambda x_t, t, **cond: seen.append(x_t.shape) or network(x_t, t, **cond)
    loss, _ = upsampler.loss(batch, generator())
    assert seen == [(3, 3, 8, 8)] and loss.shape == (3,)
    assert drawn(upsampler, low).shape == (3, 3, 16, 16)


@pytest.mark.parametrize("options", [{}, {"crop": 8}, {"crop": 8, "scale": 4, "residual": 0.2, "max_blur": 0.3}])
def test_the_small_picture_that_a_batch_brings_is_cut_where_the_picture_is(options):
    """Pictures of blocks in -1 and 1, whose means are exact: with the small ones the loss is what it is without."""
    upsampler, scale = make(**options), options.get("scale", 2)
    small = 255 * torch.randint(0, 2, (8, 3, 16 // scale, 16 // scale), generator=generator(), dtype=torch.uint8)
    image = small.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    shrunk, time = upsampler.loss({"image": image}, generator())
    brought, same = upsampler.loss({"image": image, "small": small}, generator())
    assert torch.equal(shrunk, brought) and torch.equal(time, same)
    turned, _ = upsampler.loss({"image": image, "small": small.flip(-1)}, generator())
    assert (turned - shrunk).abs().min() > 1e-6


def test_it_is_shown_the_small_picture_that_a_batch_brings(batch):
    upsampler, seen = make(max_blur=0.0, max_noise=0.0), []
    upsampler.denoiser.network = lambda x_t, t, enlarged, **cond: seen.append(enlarged) or x_t
    small = torch.randint(0, 256, (3, 3, 8, 8), generator=generator(), dtype=torch.uint8)
    upsampler.loss({**batch, "small": small}, generator())
    torch.testing.assert_close(seen[0], larger(small / 127.5 - 1, 2))


def test_every_weight_learns(batch):
    upsampler = make(embed_dim=12)
    upsampler.loss(batch, generator())[0].mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in upsampler.parameters())
    assert all(p.grad.abs().max() > 0 for p in upsampler.parameters() if p.ndim > 1)


def test_a_few_steps_of_training_beat_plain_enlarging():
    """Checkerboards and flats: shrunk they are told apart by brightness alone, which bicubic enlarging cannot use.

    Folding 2x2 pixels into channels lets a convolution know which pixels of the board are white.
    """
    torch.manual_seed(0)
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    flat = torch.full((16, 16), 1.0)
    images = torch.stack([(board * 255).byte(), (flat * 255).byte()]).repeat(8, 1, 1)[:, None].expand(-1, 3, -1, -1)
    upsampler = Upsampler(unet={**CONVOLUTIONS, "patch": 2}, image_size=16, scale=2, max_noise=0.0, max_blur=0.0)
    optimizer = torch.optim.Adam(upsampler.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        upsampler.loss({"image": images})[0].mean().backward()
        optimizer.step()
    x_0 = images[:2] / 127.5 - 1
    low = smaller(x_0, 2)
    error = (drawn(upsampler.eval(), low, noise_level=0.0) - x_0).square().mean()
    assert error < 0.5 * (larger(low, 2) - x_0).square().mean()


# ---- on disk, and what is refused ------------------------------------------------------------------------------------

def test_it_comes_back_from_disk(tmp_path, low):
    upsampler = make(embed_dim=12, crop=8)
    upsampler.save(tmp_path, dtype=None)
    again = Upsampler.from_pretrained(tmp_path)
    embed = torch.ones(3, 12)
    assert torch.equal(drawn(upsampler, low, embed), drawn(again, low, embed))


def test_karlos_upsampler_has_its_shape():
    unet = {"channels": 320, "multipliers": [1, 2, 3, 4], "num_res_blocks": 3, "scale_shift": False}
    with torch.device("meta"):
        ours = Upsampler(unet=unet, image_size=256, scale=4, **KARLO)
        theirs = UNet2DModel(
            in_channels=6, out_channels=3, block_out_channels=(320, 640, 960, 1280), layers_per_block=3,
            down_block_types=["ResnetDownsampleBlock2D"] * 4, up_block_types=["ResnetUpsampleBlock2D"] * 4, add_attention=False,
        )  # fmt: skip
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(ours.unet) == count(ours.unet_last) == count(theirs)
    assert abs(count(theirs) - 692e6) < 1e6


@pytest.mark.parametrize("options, said", [
    ({"scale": 1}, "scale=1"), ({"scale": 3}, "scale=3"), ({"max_noise": 1.0}, "max_noise=1.0"), ({"max_blur": -1}, "max_blur=-1"),
    ({"residual": 0.0}, "residual=0.0"), ({"crop": 32}, "side of 32"), ({"crop": 7}, "side of 7"), ({"image_size": 18, "scale": 3, "crop": 9}, "side of 9"),
])  # fmt: skip
def test_contradictions_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        make(**options)


@pytest.mark.parametrize("strength", [
    {"noise_level": 0.31}, {"noise_level": -0.1}, {"grain": 0.31}, {"grain": -0.1}, {"blur": 0.7}, {"blur": -0.1},
])  # fmt: skip
def test_more_spoiling_than_it_was_trained_for_is_refused(low, strength):
    with pytest.raises(ValueError, match="trained for 0 to 0.3"):
        drawn(make(), low, **strength)


def test_two_networks_have_no_loss(batch):
    with pytest.raises(ValueError, match="last_step"):
        make(**KARLO).loss(batch)


def test_an_unknown_key_in_its_config_is_named(tmp_path):
    make().save(tmp_path)
    config = (tmp_path / "config.json").read_text().replace('"max_blur"', '"max_blurr"')
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="max_blurr.*max_blur"):
        Upsampler.from_pretrained(tmp_path)


def test_default_strengths_are_within_those_of_training():
    assert math.isfinite(drawn(make(), torch.zeros(1, 3, 8, 8)).sum())


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
@pytest.mark.parametrize("strength", [0.05, 0.15, 0.4, 0.6, 0.8, 1.0])
def test_it_goes_back_at_least_as_far_as_asked_and_no_further_than_it_must(steps, strength):
    upsampler = make()
    times = upsampler.timesteps(steps, strength)
    assert torch.equal(times, upsampler.timesteps(steps)[-len(times) :])
    assert (len(times) - 1) / steps < strength - 1e-9 and strength <= len(times) / steps + 1e-9


def test_an_upsampler_of_residuals_begins_with_the_detail_of_a_picture_and_not_with_its_colours(low):
    """Begun with a flat picture, whatever its shade, it draws the same: that picture has no detail."""
    upsampler = make(residual=0.2)
    drawn = [
        upsampler.sample(low, noise=SeededNoise([1, 2, 3][: len(low)]), num_inference_steps=4, start=Start(flat, strength=0.5))
        for flat in (torch.full((1, 3, 16, 16), shade) for shade in (-0.5, 0.7))
    ]
    assert torch.allclose(*drawn, atol=1e-5)

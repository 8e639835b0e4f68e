import math

import pytest
import torch
from conftest import D, SIDE, TEXT_WIDTH
from networks.randomness import randomise

from unclip.data.images import to_float
from unclip.diffusion import draw_timesteps, noise_like, process
from unclip.errors import UserError
from unclip.refinement import Refinement


def generator(seed=7):
    return torch.Generator().manual_seed(seed)


def pairs(n, seed=3):
    """A training batch of n photographs and n drawn pictures."""
    g = generator(seed)
    image, drawn = torch.randint(0, 256, (2, n, 3, SIDE, SIDE), generator=g, dtype=torch.uint8)
    return {"image": image, "drawn": drawn, "image_embed": torch.randn(n, D, generator=g)}


def squared_errors(decoder, pictures, embed, t, eps):
    """(N,): of v, summed over the pixels, from the equations of the forward process."""
    x_t = process.q_sample(decoder.schedule, pictures, t, eps)
    alpha_bar = decoder.schedule.alpha_bar_at(t).float()[:, None, None, None]
    v = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * pictures
    return (decoder.network(x_t, t, **decoder.read(embed)) - v).square().sum(dim=(1, 2, 3))


def test_it_begins_as_the_reference_and_tells_nothing_apart(make_decoder):
    reference = make_decoder()
    model = Refinement(reference)
    assert all(torch.equal(a, b) for a, b in zip(model.decoder.state_dict().values(), reference.state_dict().values()))
    loss, t = model.loss(pairs(5), generator())
    assert loss.shape == t.shape == (5,)
    assert torch.allclose(loss, torch.full((5,), 2 * math.log(2)))


def test_the_loss_is_a_discriminators(make_decoder):
    """Zheng et al. 2025, the loss of a GAN whose discriminator is sigmoid(log p / p_ref); nothing is dropped here."""
    model = Refinement(make_decoder(image_drop=0.0), scale=0.03)
    randomise(model.decoder, std=0.11)
    batch, n = pairs(4), 4
    g = generator()
    t = draw_timesteps(n, model.decoder.schedule.num_timesteps, g)
    eps = noise_like(torch.empty(n, 3, SIDE, SIDE), g)

    def log_ratio(pictures):
        of = [squared_errors(d, to_float(pictures), batch["image_embed"], t, eps) for d in (model.reference, model.decoder)]
        return 0.03 * (of[0] - of[1])

    told = torch.sigmoid(log_ratio(batch["image"])), torch.sigmoid(log_ratio(batch["drawn"]))
    expected = -told[0].double().log() - (1 - told[1].double()).log()
    loss, share = model.loss(batch, generator())
    assert torch.allclose(loss.double(), expected, rtol=1e-3)
    assert torch.equal(share, t / model.decoder.schedule.num_timesteps)


def test_it_begins_by_learning_photographs_and_unlearning_what_was_drawn(make_decoder):
    """At the start both sigmoids are 1/2, so the gradient is scale / 2 times that of one squared error less the other."""
    model = Refinement(make_decoder(image_drop=0.0), scale=0.4)
    batch, n = pairs(3), 3
    model.loss(batch, generator())[0].sum().backward()
    g = generator()
    t = draw_timesteps(n, model.decoder.schedule.num_timesteps, g)
    eps = noise_like(torch.empty(n, 3, SIDE, SIDE), g)
    real, drawn = (
        squared_errors(model.decoder, to_float(batch[name]), batch["image_embed"], t, eps).sum() for name in ("image", "drawn")
    )
    weights = [p for name, p in model.decoder.named_parameters() if name != "null_image"]
    expected = torch.autograd.grad(0.2 * (real - drawn), weights)
    assert all(torch.allclose(p.grad, e, rtol=1e-3, atol=1e-5 * float(e.abs().max() + 1)) for p, e in zip(weights, expected))


def test_an_embedding_is_dropped_for_both_pictures_and_both_decoders(make_decoder):
    """Where it always is, what it was makes no difference, and the start still tells nothing apart."""
    model = Refinement(make_decoder(image_drop=1.0))
    batch, other = pairs(4), {**pairs(4), "image_embed": torch.randn(4, D, generator=generator(9))}
    assert torch.allclose(model.loss(batch, generator())[0], torch.full((4,), 2 * math.log(2)))
    randomise(model.decoder, std=0.11)
    assert torch.equal(model.loss(batch, generator())[0], model.loss(other, generator())[0])


def test_only_the_decoder_learns_and_is_saved(make_decoder):
    reference = make_decoder()
    before = {k: v.clone() for k, v in reference.state_dict().items()}
    model = Refinement(reference)
    assert all(k.startswith("decoder.") for k in model.state_dict())
    assert {id(p) for p in model.parameters()} == {id(p) for p in model.decoder.parameters()}
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    model.loss(pairs(2), generator())[0].mean().backward()
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in reference.state_dict().items())
    assert any(not torch.equal(before[k], v) for k, v in model.decoder.state_dict().items())


def test_it_learns_to_tell_dark_pictures_from_bright_ones(make_decoder):
    """On pictures and noise that it has not seen, and by being worse at what was drawn, not better at everything."""
    model = Refinement(make_decoder(), scale=0.05)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)

    def batch(seed):
        g = generator(seed)
        shades = torch.randint(0, 60, (2, 8, 3, SIDE, SIDE), generator=g, dtype=torch.uint8)
        return {"image": shades[0], "drawn": 195 + shades[1], "image_embed": torch.randn(8, D, generator=g)}

    for step in range(40):
        optimizer.zero_grad()
        model.loss(batch(step), generator(step))[0].mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert model.loss(batch(1000), generator(1000))[0].mean() < 1.0


@pytest.mark.parametrize("options, says", [
    ({"text_dim": TEXT_WIDTH}, "reads captions"),
    ({"step_counts": [4]}, "was distilled"),
])  # fmt: skip
def test_decoders_that_cannot_be_refined(make_decoder, options, says):
    with pytest.raises(UserError, match=says):
        Refinement(make_decoder(**options))

import pytest
import torch
import torch.nn.functional as F
from conftest import D

from unclip.critic import FASTER, WIDTH, Critic, Head
from unclip.diffusion import SeededNoise
from unclip.reward import RewardTuning

CLASSES = 3


class Colours(torch.nn.Module):
    """Sees the pictures themselves, and as they are when shrunk."""

    def maps(self, pictures, generator=None):
        return [torch.cat([pictures, pictures.square()], 1), F.avg_pool2d(pictures, 4)]

    def map_channels(self):
        return [6, 3]


def pictures(count, low, high, seed=0):
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * noise


@pytest.fixture
def critic():
    torch.manual_seed(0)
    return Critic(Colours(), CLASSES)


def test_it_begins_without_a_view(critic):
    assert critic(pictures(4, -1, 1), torch.arange(4) % CLASSES).abs().max() == 0
    assert torch.allclose(critic.loss(pictures(2, -1, 1), pictures(2, 0, 1), torch.tensor([0, 2])), torch.full((2,), 2.0))


def test_a_head_is_a_projection_discriminator():
    """Of every place the features phi; the score is the places' mean of (w + the class's embedding) . phi."""
    generator = torch.Generator().manual_seed(1)
    head = Head(5, CLASSES)
    for p in head.parameters():
        p.data = torch.randn(p.shape, generator=generator) / FASTER
    maps, labels = torch.randn(2, 5, 3, 4, generator=generator), torch.tensor([2, 0])
    expected = []
    for m, label in zip(maps, labels):
        m = (m - m.mean()) / (m.var(unbiased=False) + 1e-5).sqrt()
        direction = FASTER * (head.any_class + head.of_class.weight[label] / WIDTH**0.5)
        places = [direction @ F.leaky_relu(FASTER * (head.look @ place + head.bias), 0.2) for place in m.flatten(1).T]
        expected.append(sum(places) / len(places))
    assert torch.allclose(head(maps, labels), torch.stack(expected), atol=1e-5)


def test_the_hinge_loss_is_that_of_both(critic):
    scores = torch.tensor([[0.5, -2.0, 3.0, 0.25], [-1.5, 0.0, 0.5, -1.0]])  # two heads; two drawings, two photographs
    critic.scores = lambda pictures, labels, generator: scores
    expected = [(1.5 + 0 + 0 + 0.5) / 2, (0 + 0.75 + 1 + 2) / 2]
    found = critic.loss(pictures(2, 0, 1), pictures(2, 0, 1), torch.zeros(2, dtype=torch.long))
    assert torch.allclose(found, torch.tensor(expected))


def learn(critic, steps=150):
    """Photographs of class 0 are dark, of the others bright; drawings are the reverse."""
    optimizer = torch.optim.Adam(critic.parameters(), 1e-3)
    for step in range(steps):
        labels = torch.arange(12) % CLASSES
        dark, bright = pictures(12, -1, 0.1, 2 * step), pictures(12, -0.1, 1, 2 * step + 1)
        first = (labels == 0)[:, None, None, None]
        optimizer.zero_grad()
        critic.loss(torch.where(first, bright, dark), torch.where(first, dark, bright), labels).mean().backward()
        optimizer.step()


def test_it_learns_what_a_photograph_of_a_class_is_and_leads_there(critic):
    learn(critic)
    labels = torch.arange(30) % CLASSES
    dark, bright = pictures(30, -1, 0.1, 901), pictures(30, -0.1, 1, 902)
    first = labels == 0
    real, drawn = (critic(torch.where(first[:, None, None, None], a, b), labels) for a, b in ((dark, bright), (bright, dark)))
    assert (real > 0.3).all() and (drawn < -0.3).all()
    between = pictures(30, -0.6, 0.6, 903).requires_grad_()
    uphill = torch.autograd.grad(critic(between, labels).sum(), between)[0].mean((1, 2, 3))
    assert (uphill[first] < 0).all() and (uphill[~first] > 0).all()


def test_the_decoder_learns_to_look_like_photographs_and_the_critic_to_tell(make_decoder, critic):
    """Without any other reward; photographs are bright, and drawn pictures follow."""
    model = RewardTuning(
        make_decoder(), lambda p, labels, generator: 0 * p.flatten(1).mean(1), critic=critic, realism=1.0, closeness=0.0,
        num_inference_steps=4, trained_steps=2, guidance_scale=1.0,
    )  # fmt: skip
    side, optimizer = model.decoder.image_size, torch.optim.Adam(model.parameters(), 1e-3)
    embed = torch.randn(40, D, generator=torch.Generator().manual_seed(4))

    def light():
        drawn = model.decoder.sample(embed[32:], noise=SeededNoise(range(8)), **model.drawing)
        return float(drawn.mean())

    def batch(step):
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(32, (8,), generator=generator)
        photographs = torch.randint(160, 256, (8, 3, side, side), dtype=torch.uint8, generator=generator)
        return {"image_embed": embed[rows], "label": rows % CLASSES, "image": photographs}

    before, names = light(), {name.split(".")[0] for name, _ in model.named_parameters()}
    torch.manual_seed(1)
    for step in range(60):
        optimizer.zero_grad()
        model.loss(batch(step))[0].mean().backward()
        optimizer.step()
    assert names == {"decoder", "critic"}
    assert light() > before + 0.1


def test_what_the_decoder_is_told_teaches_no_head(make_decoder, critic):
    """The critic's gradient is that of its own loss, of pictures held fixed."""
    learn(critic, 20)
    critic.zero_grad()
    model = RewardTuning(
        make_decoder(), lambda p, labels, generator: p.flatten(1).mean(1), critic=critic, realism=1.0, num_inference_steps=3,
        trained_steps=2, guidance_scale=2.0,
    )  # fmt: skip
    side, embed = model.decoder.image_size, torch.randn(2, D)
    batch = {"image_embed": embed, "label": torch.tensor([0, 2]), "image": torch.zeros(2, 3, side, side, dtype=torch.uint8)}
    model.loss(batch, torch.Generator().manual_seed(3))[0].sum().backward()
    ours = [p.grad.clone() for p in critic.parameters()]
    critic.zero_grad()
    drawn, _ = model.drawn(embed, torch.Generator().manual_seed(3))
    critic.loss(drawn, -torch.ones_like(drawn), batch["label"]).sum().backward()
    largest = max(float(p.grad.abs().max()) for p in critic.parameters())
    assert largest > 1e-3
    assert all(torch.allclose(a, p.grad, rtol=1e-4, atol=1e-5 * largest) for a, p in zip(ours, critic.parameters()))

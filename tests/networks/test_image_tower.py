"""The CSPDarknets against timm's, wrapped by OpenCLIP."""

import pytest
import torch
from torch import nn

from unclip.bare import bare
from unclip.networks.image_tower import CSPDARKNETS, ImageTower
from unclip.openclip.building import build_clip
from unclip.openclip.folder import image_name

TEXT = {"context_length": 12, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1}
SMALL = {"embed_dim": 8, "width": 4, "depths": (1, 2, 1, 1)}


def their_tower(name, embed_dim=16):
    vision = {"timm_model_name": name, "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "image_size": 64}
    return build_clip({"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": TEXT}).visual


@torch.no_grad()
def with_random_weights(tower):
    """Norms and biases too, and statistics as a training leaves them: of what the layers give, and rounded to half precision."""
    torch.manual_seed(0)
    for parameter in tower.parameters():
        parameter += (0.3 if parameter.ndim == 1 else 0.02) * torch.randn_like(parameter)
    for norm in (module for module in tower.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = None  # the mean over all batches
    tower.train()(torch.randn(8, 3, 64, 64))
    for statistics in tower.buffers():
        if statistics.is_floating_point():
            statistics.copy_((statistics * (0.9 + 0.2 * torch.rand_like(statistics))).half())
    return tower.eval()


def ours(theirs, name, embed_dim=16):
    width, depths = CSPDARKNETS[name]
    tower = ImageTower(embed_dim=embed_dim, width=width, depths=depths)
    named = {image_name(f"visual.{key}"): value for key, value in theirs.state_dict().items()}
    named.pop(None, None)
    tower.load_state_dict(named)
    return tower.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["cs3darknet_s", "cs3darknet_m"])
def test_equals_timms(name):
    theirs = with_random_weights(their_tower(name))
    tower = ours(theirs, name)
    for batch, height, width in [(2, 96, 96), (1, 64, 64), (3, 33, 71), (1, 1, 1)]:
        pixels = torch.randn(batch, 3, height, width)
        expected = theirs(pixels)
        assert expected.shape == (batch, 16) and 0.01 < expected.std() < 100  # neither zero nor beyond what 1e-5 can tell
        torch.testing.assert_close(tower(pixels), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CSPDARKNETS)
def test_every_one_has_timms_weights(name):
    with bare():
        theirs = their_tower(name).state_dict()
        width, depths = CSPDARKNETS[name]
        tower = ImageTower(embed_dim=16, width=width, depths=depths).state_dict()
    named = {image_name(f"visual.{key}"): value.shape for key, value in theirs.items()}
    named.pop(None)
    assert named == {key: value.shape for key, value in tower.items()}


@torch.no_grad()
def test_it_looks_at_each_picture_alone_whatever_its_mode():
    """Statistics of a batch would tell a picture of its neighbours."""
    tower = ImageTower(**SMALL)
    for value in tower.state_dict().values():
        value.copy_(torch.rand_like(value) + 0.1)
    pixels = torch.randn(3, 3, 32, 32)
    alone = torch.cat([tower.eval()(p[None]) for p in pixels])
    torch.testing.assert_close(tower.train()(pixels), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changed, says", [
    ({"width": 0}, "width=0"), ({"embed_dim": 1.5}, "embed_dim=1.5"), ({"depths": (1, 2, "3", 1)}, "depths="),
    ({"depths": (1, 2, 3)}, "give 4 numbers"),
])  # fmt: skip
def test_sizes_that_make_no_tower_are_refused(changed, says):
    with pytest.raises(ValueError, match=says):
        ImageTower(**{**SMALL, **changed})

"""Released layouts with small random weights, and the parity table."""

import pytest
import torch
from networks.randomness import randomise

from unclip.interop.karlo_layout import FILES

from . import karlo_reference as karlo

DIM, LENGTH = 64, 77


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def karlo_parts():
    """Karlo's four networks and its statistics, small."""
    unet = {"channels": 64, "multipliers": (1, 2, 3), "blocks": 2}
    return {
        "prior": randomise(karlo.Prior(DIM, width=128, layers=2, length=LENGTH)),
        "decoder": randomise(karlo.Decoder(DIM, context=96, attention_levels=(1, 2), **unet)),
        "first": randomise(karlo.UNet(6, 3, channels=32, multipliers=(1, 2), blocks=1, shift=False)),
        "last": randomise(karlo.UNet(6, 3, channels=32, multipliers=(1, 2), blocks=1, shift=False), std=0.08),
        "statistics": (torch.randn(DIM, generator=torch.Generator().manual_seed(2)), torch.linspace(0.5, 2, DIM)),
    }


@pytest.fixture
def karlo_folder(karlo_parts, tmp_path):
    """A folder as Karlo's own code downloads it."""
    folder = tmp_path / "karlo"
    folder.mkdir()

    def save(file, **parts):
        state = {f"{prefix}.{k}": v for prefix, part in parts.items() for k, v in part.state_dict().items()}
        torch.save({"state_dict": state}, folder / FILES[file])

    save("prior", model=karlo_parts["prior"])
    save("decoder", model=karlo_parts["decoder"])
    save("upsampler", model_first_steps=karlo_parts["first"], model_last_step=karlo_parts["last"])
    torch.save(karlo_parts["statistics"], folder / FILES["statistics"])
    return folder


@pytest.fixture
def conditions():
    """What networks are told: two noised embeddings, times, and captions of different lengths."""
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [9]])
    return {
        "t": torch.tensor([7, 800]),
        "text": {"text_embed": torch.randn(2, DIM), "text_states": torch.randn(2, LENGTH, DIM), "text_mask": mask},
        "image_embed": torch.randn(2, DIM),
    }


@pytest.fixture
def parity(request):
    """Checks that two tensors are equal within a tolerance, relative to the largest number, and notes how nearly."""

    def check(part, config, ours, theirs, tolerance):
        assert theirs.std() > 0.05, "an output that says nothing"
        difference = ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()
        request.config.parity_rows.append((part, config, difference, tolerance))
        assert difference < tolerance

    return check

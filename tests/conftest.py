"""What the tests share: a whole model with random weights, small enough to draw in milliseconds."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the network fails at once

import pytest
import torch
from networks.randomness import randomise

from unclip import cli
from unclip.decoder import Decoder
from unclip.diffusion import SeededNoise
from unclip.openclip.building import build_clip, save_clip
from unclip.openclip.library import import_open_clip
from unclip.pipeline import UnCLIP
from unclip.prior import DiffusionPrior
from unclip.upsampler import Upsampler

import_open_clip()  # first: what it does for torchvision beside PyTorch's CPU build, diffusers needs as well

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
D, TEXT_WIDTH, TEXT_LENGTH, SIDE = 16, 16, 12, 8

CLIP_CONFIG = {
    "embed_dim": D,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": TEXT_LENGTH, "vocab_size": 49408, "width": TEXT_WIDTH, "heads": 2, "layers": 1},
}
TRANSFORMER = {"text_dim": TEXT_WIDTH, "text_length": TEXT_LENGTH, "width": 32, "layers": 2, "heads": 2}
UNET = {
    "channels": 32,
    "multipliers": [1, 2],
    "num_res_blocks": 1,
    "attention_levels": [1],
    "middle_attention": True,
    "head_dim": 16,
}
CONVOLUTIONS = {"channels": 16, "multipliers": [1, 2], "num_res_blocks": 1, "norm": "layer"}
VOCABULARY = "a photo of dog cat the red car bridge"


def pytest_configure(config):
    config.parity_rows = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What notes a row in the parity table is marked so."""
    for item in items:
        if "parity" in item.fixturenames:
            item.add_marker("parity")


def pytest_terminal_summary(terminalreporter, config):
    """With `-m parity`: the table of interop/README.md."""
    if config.parity_rows and "parity" in config.getoption("markexpr"):
        terminalreporter.write_line("\n| part | config | largest difference | tolerance |\n|---|---|---|---|")
        for part, kind, difference, tolerance in config.parity_rows:
            terminalreporter.write_line(f"| {part} | {kind} | {difference:.1e} | {tolerance:.0e} |")


@pytest.fixture(autouse=True)
def one_thread():
    """These tensors are too small to share out."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_bfloat16(monkeypatch):
    """On every processor, draw and train in float32 where nothing else is asked for."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)


@pytest.fixture
def make_prior():
    def make(**options):
        prior = randomise(DiffusionPrior(**{"transformer": TRANSFORMER, "embed_dim": D, **options}))
        prior.set_statistics(3 + 2 * torch.randn(64, D, generator=torch.Generator().manual_seed(5)))
        return prior

    return make


@pytest.fixture
def make_decoder():
    def make(**options):
        return randomise(Decoder(**{"unet": UNET, "image_size": SIDE, "embed_dim": D, **options}))

    return make


def random_text(batch, seed=0):
    """Text keys of `batch` captions of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(2, TEXT_LENGTH + 1, (batch,), generator=generator)
    return {
        "text_embed": torch.randn(batch, D, generator=generator),
        "text_states": torch.randn(batch, TEXT_LENGTH, TEXT_WIDTH, generator=generator),
        "text_mask": torch.arange(TEXT_LENGTH) < length[:, None],
    }


@pytest.fixture
def text():
    """(captions, the empty caption) for three pictures."""
    return random_text(3), random_text(1, seed=9)


@pytest.fixture
def batch(text):
    """A training batch of three."""
    generator = torch.Generator().manual_seed(3)
    captions, empty = text
    return {
        "image": torch.randint(0, 256, (3, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8),
        "image_embed": torch.randn(3, D, generator=generator),
        **captions,
        **{f"null_{k}": v for k, v in empty.items()},
    }


@pytest.fixture
def noise():
    return SeededNoise([1, 2, 3])


@pytest.fixture(scope="session")
def model_files(tmp_path_factory):
    """A whole model folder. Read it only: `model_copy` is there to be broken."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    clip = build_clip(CLIP_CONFIG)
    save_clip(clip.state_dict(), CLIP_CONFIG, ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), folder / "clip")
    prior = randomise(DiffusionPrior(transformer=TRANSFORMER, embed_dim=D))
    prior.set_statistics(torch.randn(64, D, generator=torch.Generator().manual_seed(5)))
    prior.save(folder / "prior")
    randomise(Decoder(unet=UNET, image_size=SIDE, embed_dim=D)).save(folder / "decoder")
    index = {
        "clip": {"name": "clip", "pretrained": None, "unit_variance": True},
        "defaults": {"num_inference_steps": 3, "prior_num_inference_steps": 2},
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "vocabulary.txt").write_text("\n".join(VOCABULARY.split()) + "\n")
    return folder


@pytest.fixture
def model_copy(model_files, tmp_path):
    return shutil.copytree(model_files, tmp_path / "copy")


@pytest.fixture(scope="session")
def model(model_files):
    return UnCLIP.from_pretrained(model_files)


@pytest.fixture(scope="session")
def cascade_files(model_files, tmp_path_factory):
    """A model folder with two upsamplers, to 16x16 and 64x64; the second is told the image embedding. Read it only."""
    folder = shutil.copytree(model_files, tmp_path_factory.mktemp("models") / "cascade")
    randomise(Upsampler(unet=CONVOLUTIONS, image_size=2 * SIDE, scale=2)).save(folder / "upsampler-1")
    second = Upsampler(unet=CONVOLUTIONS, image_size=8 * SIDE, scale=4, embed_dim=D, max_noise=0.2)
    randomise(second).save(folder / "upsampler-2")
    return folder


@pytest.fixture(scope="session")
def cascade(cascade_files):
    return UnCLIP.from_pretrained(cascade_files)


@pytest.fixture
def run_script(capsys):
    """Run scripts/NAME.py in this process, as from a shell: (exit code, stdout lines, stderr lines)."""

    def run(name, *argv):
        spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        capsys.readouterr()
        try:
            cli.run(lambda: module.main([str(a) for a in argv]))
            code = 0
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out.splitlines(), [line for line in err.splitlines() if line.strip()]

    return run

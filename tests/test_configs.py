"""Every config that ships is read by the script of its part, and describes a model that can be built."""

import re
from pathlib import Path

import pytest
import timm
import torch

from unclip.config import load_config
from unclip.contrastive import ContrastiveCLIP
from unclip.decoder import Decoder
from unclip.distillation import Distillation
from unclip.hub import model_folder
from unclip.prior import DiffusionPrior
from unclip.refinement import Refinement
from unclip.reward import RewardTuning
from unclip.training import runs
from unclip.training.distillation import DistillRun
from unclip.training.refinement import RefineRun
from unclip.training.reward import RewardRun
from unclip.upsampler import Upsampler

ROOT = Path(__file__).resolve().parents[1]
KINDS = {
    "clip": (runs.ClipRun, None),
    "prior": (runs.PriorRun, DiffusionPrior),
    "decoder": (runs.DecoderRun, Decoder),
    "upsampler": (runs.UpsamplerRun, Upsampler),
}
FROM_THE_CLIP = {"embed_dim": 768}
GUIDANCE = {"guidance_scale": 4.0, "guidance_start": 0.0, "guidance_end": 0.8}
CONFIGS = sorted(path for path in ROOT.glob("configs/*/*.yaml") if path.parent.name != "accelerate")
OF_PARTS = [path for path in CONFIGS if path.stem not in ("distill", "refine", "reward")]


def test_there_are_configs():
    assert len(CONFIGS) >= 10


@pytest.mark.parametrize("path", OF_PARTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_config_describes_a_model(path):
    kind, part = KINDS[path.stem.split("-")[0]]
    config = load_config(kind, path)
    if part is not None:
        options = config.model.model_dump(exclude_none=True)
        if part is DiffusionPrior:
            options["transformer"] = {"text_dim": 768, "text_length": 77, **options["transformer"]}
        with torch.device("meta"):
            built = part(**{**(FROM_THE_CLIP if part is not Upsampler else {}), **options})
    else:
        options = config.model.model_dump(exclude={"architecture"})
        built = ContrastiveCLIP(config.model.architecture, **options, num_labels=2)
    assert sum(p.numel() for p in built.parameters()) > 10_000


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_commands_in_a_config_are_there(path):
    commands = re.findall(r"scripts/(\w+)\.py --config (\S+)", path.read_text())
    assert commands or path.parent.name == "mine"
    for script, named in commands:
        assert (ROOT / "scripts" / f"{script}.py").is_file() and (ROOT / named).is_file()


def test_a_config_distils_the_decoder_of_its_teacher():
    config = load_config(DistillRun, ROOT / "configs/pocket/distill.yaml")
    teacher = Decoder.from_pretrained(model_folder(config.teacher) / "decoder")
    student = Distillation(teacher, **{**config.student.model_dump(), "guidance_scale": 2.0}).student
    assert student.step_counts == [4, 2, 1] and config.data.image_size == teacher.image_size


def test_a_config_refines_the_decoder_of_its_reference():
    config = load_config(RefineRun, ROOT / "configs/pocket/refine.yaml")
    reference = Decoder.from_pretrained(model_folder(config.reference) / "decoder")
    assert Refinement(reference, scale=config.scale).decoder.options == reference.options
    assert config.data.image_size == reference.image_size


def test_a_config_rewards_the_decoder_of_its_reference():
    config = load_config(RewardRun, ROOT / "configs/pocket/reward.yaml")
    reference = Decoder.from_pretrained(model_folder(config.reference) / "decoder")
    tuning = RewardTuning(reference, None, **{**config.tuning.model_dump(), **GUIDANCE})
    assert tuning.decoder.options == reference.options
    assert (ROOT / config.wordnet).is_file() and all(timm.is_model(name) for name in config.classifiers)

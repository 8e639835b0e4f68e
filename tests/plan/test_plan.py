"""The script, and the sizes of the configs that are too large to build here."""

import json
import resource

import pytest

from unclip.plan.cards import CARDS
from unclip.plan.models import subject

CLIP = "clip.name=data/pocket/clip"


@pytest.mark.parametrize("name, least, most", [
    ("prior-l14", 900, 1100), ("prior-h14", 900, 1100), ("decoder-h14", 900, 1100),
    ("decoder-l14", 889, 897),  # Karlo's: 893 M
    ("upsampler-256", 630, 770), ("upsampler-1024", 270, 330),  # Ramesh et al. 2022, appendix C: 700 M and 300 M
])  # fmt: skip
def test_the_large_configs_have_their_sizes_and_take_no_memory(name, least, most):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = subject(f"configs/dalle2/{name}.yaml")
    modules = (found.model, *found.frozen.values())
    assert all(t.is_meta for module in modules for t in (*module.parameters(), *module.buffers()))
    assert least < sum(p.numel() for p in found.model.parameters()) / 1e6 < most
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB; the weights alone would be gigabytes


def test_the_table_and_the_figures(run_script, tmp_path):
    path = tmp_path / "plan.json"
    asked = ["--gpus", "8", "--gpu", "a100-40", "--batch", "16", "--utilisation", "0.5"]
    argv = ["configs/mine/prior.yaml", *asked, "--json", path]
    code, out, err = run_script("plan", *argv, "--set", "train.steps=1000", "--set", "optimizer.name=adamw")
    assert (code, err) == (0, []) and out[-1] == str(path)
    found = json.loads(path.read_text())
    assert sum(found["parts"].values()) == found["parameters"] > 1e6
    assert (found["gpus"], found["batch"], found["gpu"]) == (8, 16, CARDS["a100-40"].name)
    for way in found["ways"].values():
        assert way["memory_in_all"] == pytest.approx(sum(way["memory"].values()))
        assert way["steps_a_second"] * way["flops"] == pytest.approx(0.5 * 312e12)
        assert way["gpu_days"] == pytest.approx(8 * 1000 / way["steps_a_second"] / 86400)
        assert way["fits"] and way["largest_batch"] > 16
    assert "computed" in out[1] and any(line.startswith("| GPU-days for 1,000 steps") for line in out)


def test_what_does_not_fit_is_said(run_script):
    argv = ["configs/mine/prior.yaml", "--set", "optimizer.name=adamw", "--gpu", "rtx4090", "--batch", "1000000"]
    code, out, _ = run_script("plan", *argv)
    assert code == 0 and any("does not fit" in line for line in out)


@pytest.mark.parametrize("name, kind", [
    ("distill", "distillation"), ("refine", "refinement"), ("reward", "rewarding"), ("clip-means", "CLIP"), ("clip-both", "CLIP"),
    ("upsampler-128", "upsampler"),
])  # fmt: skip
def test_every_training_can_be_planned(run_script, name, kind):
    code, out, err = run_script("plan", f"configs/pocket/{name}.yaml", "--batch", "4", "--set", "optimizer.name=adamw")
    assert code == 0, err
    assert f": {kind} of " in out[0]


def test_a_critic_counts(run_script):
    """The two classifiers look at 16 views of 144 pixels more; of 0.39 and 0.60 billion multiplications at 224, as is said of them."""

    def teraflops(*more):
        code, out, err = run_script("plan", "configs/pocket/reward.yaml", "--batch", "4", *more)
        assert code == 0, err
        return float(next(line for line in out if "TFLOP" in line).split("|")[2])

    more = teraflops("--set", "photographs=runs/data/anything") - teraflops()
    expected = 16 * 2 * (0.39 * (144 / 224) ** 2 + 0.60 * (144 / 224) ** 2) / 1000
    assert more == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("argv, says", [
    (["nothing.yaml"], "no config file nothing.yaml"),
    (["configs/accelerate/cpu.yaml"], "is no training config"),
    (["configs/mine/prior.yaml", "--gpu", "h10"], "--gpu h10 (did you mean 'h100'?): choose one of a100-40,"),
    (["configs/mine/prior.yaml", "--strategy", "zero1"], "choose one of ddp, fsdp, zero2, zero3"),
    (["configs/mine/prior.yaml", "--gpus", "0"], "choose 1 GPU or more"),
    (["configs/mine/prior.yaml", "--utilisation", "2"], "a share above 0, up to 1"),
    (["configs/mine/prior.yaml", "--batch", "0"], "train.batch_size"),
    (["configs/mine/prior.yaml", "--set", "clip.name=ViT-L-15"], "no CLIP 'ViT-L-15' (did you mean 'ViT-L-16'?)"),
    (["configs/mine/prior.yaml", "--set", "clip.name=roberta-ViT-B-32"], "text tower of Hugging Face's"),
    (["configs/mine/prior.yaml", "--set", "clip.name=configs"], "no open_clip_config.json that can be read"),
    (["configs/mine/prior.yaml", "--set", "model.embed_dim=5"], "the CLIP's is 128"),
    (["configs/pocket/clip-image.yaml", "--set", "data.folder=nowhere"], "prepare nowhere first"),
])  # fmt: skip
def test_what_cannot_be_planned_ends_in_a_line(run_script, argv, says):
    code, out, err = run_script("plan", *argv)
    assert (code, out, len(err)) == (2, [], 1) and says in err[0]

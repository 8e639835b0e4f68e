"""`scripts/distill.py` on a few pictures and a model of a few thousand weights."""

import json
import shutil

import pytest
import torch
import yaml
from conftest import D, SIDE, UNET, VOCABULARY
from data.pictures import captioned_tar
from networks.randomness import randomise
from PIL import Image
from safetensors.torch import load_file

from unclip.decoder import Decoder
from unclip.distillation import Distillation
from unclip.errors import UserError
from unclip.pipeline import UnCLIP
from unclip.training.distillation import distill

from .conftest import OPTIMIZER, write_config
from .toys import checkpoint_of, counters_of


@pytest.fixture
def write(tmp_path, model_files):
    """Writes a config; keyword sections are merged into it."""
    captioned_tar(tmp_path / "shards" / "0.tar", range(40))

    def write(**changes):
        sections = {
            "teacher": str(model_files),
            "out": str(tmp_path / "out"),
            "data": {"folder": str(tmp_path / "shards"), "image_size": SIDE, "workers": 0},
            "student": {"steps": [4, 2, 1], "teacher_steps": 8},
            "optimizer": OPTIMIZER,
            "train": {"run": str(tmp_path / "run"), "batch_size": 6, "steps": 3, "precision": "no", "val_samples": 8,
                      "ema": 0.5},
        }  # fmt: skip
        return write_config(tmp_path / "distill.yaml", sections, changes)

    return write


def test_the_script_writes_a_model_that_draws_in_few_steps(write, run_script, cascade_files, tmp_path):
    """A whole one: the teacher's CLIP, prior, upsamplers, vocabulary and defaults; and `generate.py` draws with it."""
    path, out = write(teacher=str(cascade_files)), tmp_path / "out"
    code, _, err = run_script("distill", "--config", path)
    assert code == 0, err
    model, teacher = UnCLIP.from_pretrained(out), UnCLIP.from_pretrained(cascade_files)
    assert model.stages == teacher.stages and model.vocabulary == set(VOCABULARY.split())
    differ = {k for k, v in model.defaults if v != getattr(teacher.defaults, k)}
    assert differ == {"num_inference_steps", "guidance_scale"}
    assert (model.defaults.num_inference_steps, model.defaults.guidance_scale, model.defaults.sampler) == (4, 1.0, "ddim")
    for part in ("clip", "prior", "upsampler-1", "upsampler-2"):
        for file in (cascade_files / part).iterdir():
            assert (out / part / file.name).read_bytes() == file.read_bytes()
    drawn = []
    for steps in ((), ("--steps", "1"), ("--steps", "2"), ("--steps", "4")):
        code, lines, err = run_script("generate", "a dog", "--model", out, "--out", tmp_path / "drawn", "--num-images", 1,
                                      "--stop-after", "base", *steps)  # fmt: skip
        assert code == 0, err
        image = Image.open(lines[0])
        drawn.append(image.tobytes())
        assert image.size == (SIDE, SIDE) and json.loads(image.text["settings"])["guidance_scale"] == 1
    assert drawn[0] == drawn[3] and len(set(drawn)) == 3
    code, _, err = run_script("generate", "a dog", "--model", out, "--out", tmp_path / "none", "--steps", 3)
    assert code == 2 and err == ["error: 3 steps: this decoder was distilled and draws in 4, 2, 1: choose one"]
    code, _, err = run_script("generate", "a dog", "--model", out, "--out", tmp_path / "none", "--sampler", "dpm++")
    assert code == 2 and err == ["error: sampler dpm++: this decoder was distilled for ddim: leave it out"]
    (again,) = model.vary(image, num_images=1, fidelity=0.5, stop_after="base")  # by inversion, in the steps that it has
    assert again.size == (SIDE, SIDE)
    log = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert {"val_loss", "distance_4", "distance_2", "distance_1"} <= set(log)
    assert (tmp_path / "run" / "samples" / "0000003.png").is_file()


def test_a_stopped_run_goes_on_as_if_it_had_not_been(write, interrupted, tmp_path):
    """Stopped by Ctrl-C in its second step, and run again with the saved config."""
    distill(write(train={"run": str(tmp_path / "straight")}, out=str(tmp_path / "one")))
    interrupted(Distillation, lambda: distill(write(out=str(tmp_path / "two"))))
    assert counters_of(tmp_path / "run")["step"] == 2
    UnCLIP.from_pretrained(tmp_path / "two")  # whole already
    distill(tmp_path / "run" / "config.yaml")
    assert counters_of(tmp_path / "run")["step"] == 3
    weights = [load_file(tmp_path / name / "decoder" / "model.safetensors") for name in ("one", "two")]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    kept = load_file(checkpoint_of(tmp_path / "run") / "model.safetensors")
    assert all(k.startswith("student.") for k in kept)  # the teacher is in its own folder already


def test_the_guidance_that_is_baked_in_is_the_teachers_default_or_what_the_config_says(write, model_copy, tmp_path):
    index = json.loads((model_copy / "model_index.json").read_text())
    index["defaults"] |= {"guidance_scale": 5.0, "guidance_start": 0.1, "guidance_end": 0.8}
    (model_copy / "model_index.json").write_text(json.dumps(index))
    whole = {"guidance_start": 0.0, "guidance_end": 1.0}
    for k, (change, baked) in enumerate([({}, (5.0, 0.1, 0.8)), ({"guidance_scale": 1.5, **whole}, (1.5, 0.0, 1.0))]):
        run = tmp_path / f"run{k}"
        distill(write(teacher=str(model_copy), student=change, train={"run": str(run), "steps": 1}))
        student = yaml.safe_load((run / "config.yaml").read_text())["student"]
        assert tuple(student[name] for name in ("guidance_scale", "guidance_start", "guidance_end")) == baked


@pytest.mark.parametrize("changes, says", [
    ({"student": {"steps": [4, 3]}}, "has to divide"),
    ({"student": {"step": [4]}}, "unknown key 'student.step' (did you mean 'steps'?)"),
    ({"data": {"image_size": 2 * SIDE}}, f"data.image_size is {2 * SIDE}, but the teacher's is {SIDE}"),
    ({"teacher": "nowhere"}, "no model folder nowhere"),
    ({"data": {"folder": "nowhere"}}, "no data folder nowhere"),
])  # fmt: skip
def test_settings_that_do_not_fit_end_in_a_line_before_training(write, tmp_path, changes, says):
    with pytest.raises(UserError) as error:
        distill(write(**changes))
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()


def test_the_teachers_folder_is_left_alone(write, model_copy):
    before = {p: p.read_bytes() for p in model_copy.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="out is the teacher's own folder"):
        distill(write(teacher=str(model_copy), out=str(model_copy / ".." / model_copy.name)))
    assert before == {p: p.read_bytes() for p in model_copy.rglob("*") if p.is_file()}


def test_a_decoder_that_was_not_distilled_is_not_lost(write, model_files, tmp_path):
    weights = shutil.copytree(model_files, tmp_path / "out") / "decoder" / "model.safetensors"
    with pytest.raises(UserError, match="was not distilled and would be lost"):
        distill(write())
    assert weights.read_bytes() == (model_files / "decoder" / "model.safetensors").read_bytes()


def test_another_model_of_the_same_clip_is_not_lost(write, model_files, tmp_path):
    other = shutil.copytree(model_files, tmp_path / "out")
    shutil.rmtree(other / "decoder")
    weights = other / "prior" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    before = weights.read_bytes()
    with pytest.raises(UserError, match="prior is not that of .*: choose another folder for out="):
        distill(write())
    assert not (other / "decoder").exists() and weights.read_bytes() == before


def test_a_decoder_for_another_clip_is_refused(write, model_copy):
    randomise(Decoder(unet=UNET, image_size=SIDE, embed_dim=D + 1)).save(model_copy / "decoder")
    with pytest.raises(UserError, match="reads another CLIP"):
        distill(write(teacher=str(model_copy)))


def test_a_clip_that_the_model_was_not_trained_with_is_refused(write, model_copy):
    index = json.loads((model_copy / "model_index.json").read_text())
    index["clip"]["fingerprint"] = "0123456789"
    (model_copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="was trained with the CLIP clip of checksum 0123456789"):
        distill(write(teacher=str(model_copy)))

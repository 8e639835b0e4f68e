"""`scripts/refine.py` on a few pictures and a model of a few thousand weights."""

import json
import shutil

import pytest
import torch
from conftest import SIDE, VOCABULARY
from data.pictures import captioned_tar
from safetensors.torch import load_file, save_file

from unclip.data.images import to_bytes, to_float
from unclip.errors import UserError
from unclip.pipeline import UnCLIP
from unclip.refinement import Refinement
from unclip.training.refinement import refine

from .conftest import OPTIMIZER, write_config
from .toys import checkpoint_of, counters_of


@pytest.fixture
def write(tmp_path, model_files):
    """Writes a config; keyword sections are merged into it."""
    captioned_tar(tmp_path / "shards" / "0.tar", range(40))

    def write(**changes):
        sections = {
            "reference": str(model_files),
            "out": str(tmp_path / "out"),
            "data": {"folder": str(tmp_path / "shards"), "image_size": SIDE, "workers": 0},
            "pictures": 30,
            "num_inference_steps": 2,
            "optimizer": OPTIMIZER,
            "train": {"run": str(tmp_path / "run"), "batch_size": 6, "steps": 3, "precision": "no", "val_samples": 8,
                      "ema": 0.5},
        }  # fmt: skip
        return write_config(tmp_path / "refine.yaml", sections, changes)

    return write


def test_the_script_writes_a_whole_model_with_another_decoder(write, run_script, cascade_files, tmp_path):
    """The reference's CLIP, prior, upsamplers, vocabulary and defaults; and `generate.py` draws with it."""
    out = tmp_path / "out"
    code, _, err = run_script("refine", "--config", write(reference=str(cascade_files)))
    assert code == 0, err
    model, reference = UnCLIP.from_pretrained(out), UnCLIP.from_pretrained(cascade_files)
    assert model.stages == reference.stages and model.vocabulary == set(VOCABULARY.split())
    assert model.defaults == reference.defaults
    for part in ("clip", "prior", "upsampler-1", "upsampler-2"):
        for file in (cascade_files / part).iterdir():
            assert (out / part / file.name).read_bytes() == file.read_bytes()
    ours, theirs = (load_file(folder / "decoder" / "model.safetensors") for folder in (out, cascade_files))
    assert ours.keys() == theirs.keys() and any(not torch.equal(ours[k], theirs[k]) for k in ours)
    code, lines, err = run_script("generate", "a dog", "--model", out, "--out", tmp_path / "drawn", "--num-images", 1)
    assert code == 0, err
    assert (tmp_path / "run" / "samples" / "0000003.png").is_file()


def test_it_learns_from_what_the_reference_draws_from_each_pictures_embedding(write, monkeypatch, model_files):
    """Without guidance; what is drawn here is a shade that tells the embedding."""
    seen, how = [], []

    def shade(image_embed):
        return image_embed[:, :1, None, None].tanh().expand(-1, 3, SIDE, SIDE)

    def draw(model, jobs, settings, *, image_embed, batch_size):
        how.append((len(jobs) == len(image_embed), settings.guidance_scale, settings.num_inference_steps, settings.stop_after))
        return shade(image_embed)

    def spy(model, batch, generator=None):
        seen.append(batch)
        return loss(model, batch, generator)

    loss = Refinement.loss
    monkeypatch.setattr(UnCLIP, "sample_each", draw)
    monkeypatch.setattr(Refinement, "loss", spy)
    refine(write(data={"mirror": False}))
    assert set(how) == {(True, 1.0, 2, "base")}
    batch = {name: torch.cat([b[name] for b in seen]) for name in ("image", "drawn", "image_embed")}
    assert torch.equal(batch["drawn"], to_bytes(shade(batch["image_embed"])))
    look = UnCLIP.from_pretrained(model_files).look
    assert torch.allclose(batch["image_embed"], look(to_float(batch["image"])), atol=0.02)  # kept in half precision


def test_a_stopped_run_goes_on_as_if_it_had_not_been(write, interrupted, monkeypatch, tmp_path):
    """Stopped by Ctrl-C in its second step, and run again with the saved config: nothing is drawn anew."""
    refine(write(train={"run": str(tmp_path / "straight")}, out=str(tmp_path / "one")))
    interrupted(Refinement, lambda: refine(write(out=str(tmp_path / "two"))))
    assert counters_of(tmp_path / "run")["step"] == 2
    monkeypatch.setattr(UnCLIP, "sample_each", None)
    refine(tmp_path / "run" / "config.yaml")
    assert counters_of(tmp_path / "run")["step"] == 3
    weights = [load_file(tmp_path / name / "decoder" / "model.safetensors") for name in ("one", "two")]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    kept = load_file(checkpoint_of(tmp_path / "run") / "model.safetensors")
    assert all(k.startswith("decoder.") for k in kept)  # the reference is in its own folder already


@pytest.mark.parametrize("change", [{"num_inference_steps": 3}, {"train": {"seed": 1}}, {"pictures": 20}, {"reference": None}])
def test_what_was_drawn_otherwise_is_drawn_anew(write, monkeypatch, model_copy, tmp_path, change):
    """After a run that ended before it learned: in other steps, from another seed or other pictures, or by another decoder."""
    decoder = model_copy / "decoder" / "model.safetensors"
    monkeypatch.setattr("unclip.training.refinement.train", lambda *args, **more: None)
    refine(write(reference=str(model_copy)))
    before = {file: load_file(file)["drawn"] for file in (tmp_path / "run").rglob("*.safetensors")}
    if "reference" in change:
        save_file({k: 0.9 * v for k, v in load_file(decoder).items()}, decoder)
        change = {}
    refine(write(reference=str(model_copy), **change))
    after = {file: load_file(file)["drawn"] for file in before}
    training = next(file for file in before if file.parent.name == "training")
    assert before[training].shape != after[training].shape or not torch.equal(before[training], after[training])


@pytest.mark.parametrize("changes, says", [
    ({"pictures": 0}, "pictures"),
    ({"scale": 0}, "scale"),
    ({"data": {"image_size": 2 * SIDE}}, f"data.image_size is {2 * SIDE}, but the reference's is {SIDE}"),
    ({"reference": "nowhere"}, "no model folder nowhere"),
    ({"data": {"folder": "nowhere"}}, "no data folder nowhere"),
    ({"train": {"init_from": "nothing"}}, "train.init_from=nothing is no file"),
])  # fmt: skip
def test_settings_that_do_not_fit_end_in_a_line_before_training(write, tmp_path, changes, says):
    with pytest.raises(UserError) as error:
        refine(write(**changes))
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()


def test_streamed_pictures_are_refused(write, tmp_path):
    captioned_tar(tmp_path / "shards" / "1.tar", range(40, 80))
    with pytest.raises(UserError, match="for sets in memory"):
        refine(write(data={"in_memory": False}))
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()


def test_the_references_folder_is_left_alone(write, model_copy):
    before = {p: p.read_bytes() for p in model_copy.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="out is the reference's own folder"):
        refine(write(reference=str(model_copy), out=str(model_copy / ".." / model_copy.name)))
    assert before == {p: p.read_bytes() for p in model_copy.rglob("*") if p.is_file()}


def test_a_negative_prompt_among_the_references_defaults_is_not_drawn_with(write, model_copy, tmp_path):
    """It is guidance's, of which there is none."""
    index = json.loads((model_copy / "model_index.json").read_text())
    index["defaults"] |= {"guidance_scale": 2.0, "negative_prompt": "a cat"}
    (model_copy / "model_index.json").write_text(json.dumps(index))
    refine(write(reference=str(model_copy)))
    assert UnCLIP.from_pretrained(tmp_path / "out").defaults.negative_prompt == "a cat"


def test_another_decoder_is_not_lost(write, model_files, tmp_path):
    weights = shutil.copytree(model_files, tmp_path / "out") / "decoder" / "model.safetensors"
    with pytest.raises(UserError, match="has a decoder, which would be lost"):
        refine(write())
    assert weights.read_bytes() == (model_files / "decoder" / "model.safetensors").read_bytes()

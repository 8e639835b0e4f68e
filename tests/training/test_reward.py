"""`scripts/reward.py` with a toy for a classifier and a model of a few thousand weights."""

import shutil

import pytest
import torch
from conftest import VOCABULARY
from data.pictures import encoded, write_tar
from PIL import Image
from safetensors.torch import load_file

from unclip.data.captions import ClassCaptions
from unclip.errors import UserError
from unclip.pipeline import UnCLIP
from unclip.reward import RewardTuning
from unclip.training import reward as module
from unclip.training.reward import Embeddings, reward

from .conftest import OPTIMIZER, write_config
from .toys import checkpoint_of, counters_of


class Toy(torch.nn.Module):
    """Rewards brightness, or, for the second class, darkness."""

    def forward(self, pictures, labels, generator=None):
        return pictures.flatten(1).mean(1) * (1 - 2 * labels)

    def maps(self, pictures, generator=None):
        return [pictures]

    def map_channels(self):
        return [3]


@pytest.fixture
def labelled_files(model_copy):
    """A model that knows two classes."""
    ClassCaptions(names=[["dog"], ["cat"]], nouns=[[], []]).save(model_copy / "classes.json")
    return model_copy


@pytest.fixture
def write(tmp_path, labelled_files, monkeypatch):
    """Writes a config; keyword sections are merged into it."""
    monkeypatch.setattr(module, "imagenet_classifiers", lambda names, table, classes: Toy())

    def write(**changes):
        sections = {
            "reference": str(labelled_files),
            "out": str(tmp_path / "out"),
            "classifiers": ["toy"],
            "wordnet": "nowhere",
            "embeddings": 5,
            "tuning": {"num_inference_steps": 3, "trained_steps": 2},
            "optimizer": OPTIMIZER,
            "train": {"run": str(tmp_path / "run"), "batch_size": 4, "steps": 3, "precision": "no", "val_samples": 8,
                      "ema": 0.5},
        }  # fmt: skip
        return write_config(tmp_path / "reward.yaml", sections, changes)

    return write


def test_the_script_writes_a_whole_model_with_another_decoder(write, run_script, labelled_files, tmp_path):
    out = tmp_path / "out"
    code, _, err = run_script("reward", "--config", write())
    assert code == 0, err
    model, reference = UnCLIP.from_pretrained(out), UnCLIP.from_pretrained(labelled_files)
    assert model.vocabulary == set(VOCABULARY.split()) and model.defaults == reference.defaults
    assert model.rivals.captions == reference.rivals.captions
    for part in ("clip", "prior"):
        for file in (labelled_files / part).iterdir():
            assert (out / part / file.name).read_bytes() == file.read_bytes()
    ours, theirs = (load_file(folder / "decoder" / "model.safetensors") for folder in (out, labelled_files))
    assert ours.keys() == theirs.keys() and any(not torch.equal(ours[k], theirs[k]) for k in ours)
    code, lines, err = run_script("generate", "a dog", "--model", out, "--out", tmp_path / "drawn", "--num-images", 1)
    assert code == 0, err
    assert (tmp_path / "run" / "samples" / "0000003.png").is_file()


def test_it_learns_from_what_the_prior_draws_of_every_class(write, monkeypatch, labelled_files):
    """Guided as the reference is; held-out embeddings are others."""
    batches, models = {True: [], False: []}, []

    def spy(model, batch, generator=None):
        batches[model.training].append(batch)
        models.append(model)
        return loss(model, batch, generator)

    loss = RewardTuning.loss
    monkeypatch.setattr(RewardTuning, "loss", spy)
    reward(write(train={"steps": 12}))
    defaults = UnCLIP.from_pretrained(labelled_files).defaults
    assert models[0].guidance == {k: getattr(defaults, k) for k in ("guidance_scale", "guidance_start", "guidance_end")}
    learned, held_out = ({tuple(e.tolist()): int(l) for b in of for e, l in zip(b["image_embed"], b["label"])}
                         for of in (batches[True], batches[False]))  # fmt: skip
    assert sorted(learned.values()) == [0] * 5 + [1] * 5 and sorted(held_out.values()) == [0] * 4 + [1] * 4
    assert not learned.keys() & held_out.keys()


def test_embeddings_are_the_priors_of_their_class(write, model, labelled_files, monkeypatch):
    """What comes of a class's caption is told by its label."""
    drawing, asked = UnCLIP.from_pretrained(labelled_files), []

    def read(texts, seeds, settings):
        asked.extend(seeds)
        return torch.tensor([[float(prompt == "a photo of a cat.")] for prompt in texts.prompts])

    monkeypatch.setattr(drawing, "image_embeddings", read)
    config = module.config_of_run(module.RewardRun, write())
    embeddings = Embeddings(drawing, config, 0)
    assert torch.equal(embeddings.image_embed[:, 0], embeddings.label.float()) and len(embeddings.label) == 10
    assert len(set(asked)) == 10
    batch = embeddings.at(7)
    assert torch.equal(batch["image_embed"][:, 0], batch["label"].float()) and len(batch["label"]) == 4
    Embeddings(drawing, config, 1)
    assert len(set(asked)) == 20  # another process draws its own


@pytest.fixture
def photographs(tmp_path):
    """A data folder of three dogs, which are red, and two cats, which are blue."""
    folder, files = tmp_path / "photographs", []
    for k, label in enumerate([0, 1, 0, 0, 1]):
        colour = [(200 + k, 0, 0), (0, 0, 200 + k)][label]
        files += [(f"{k}.png", encoded(Image.new("RGB", (16, 16), colour))), (f"{k}.cls", str(label).encode())]
    write_tar(folder / "train" / "0.tar", files)
    (folder / "classnames.txt").write_text("dog\ncat\n")
    return folder


def test_a_critic_is_shown_photographs_of_the_classes_that_are_drawn(write, photographs, monkeypatch):
    batches, at = [], Embeddings.at
    monkeypatch.setattr(Embeddings, "at", lambda self, step: batches.append(at(self, step)) or batches[-1])
    reward(write(photographs=str(photographs), train={"steps": 6}))
    assert len(batches) >= 6
    reds, blues = set(), set()
    for batch in batches:
        for image, label in zip(batch["image"], batch["label"]):
            (blues if label else reds).add(int(image[2 * int(label)].max()))
            assert image[2 - 2 * int(label)].max() == 0
    assert reds == {200, 202, 203} and blues == {201, 204}


@pytest.mark.parametrize("learning", [{"decoder"}, {"decoder", "critic"}], ids=" and ".join)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(write, photographs, interrupted, tmp_path, learning):
    changes = {"photographs": str(photographs), "tuning": {"realism": 1.0}} if "critic" in learning else {}
    reward(write(**changes, train={"run": str(tmp_path / "straight")}, out=str(tmp_path / "one")))
    interrupted(RewardTuning, lambda: reward(write(**changes, out=str(tmp_path / "two"))))
    assert counters_of(tmp_path / "run")["step"] == 2
    reward(tmp_path / "run" / "config.yaml")
    weights = [load_file(tmp_path / name / "decoder" / "model.safetensors") for name in ("one", "two")]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    kept = load_file(checkpoint_of(tmp_path / "run") / "model.safetensors")
    assert {k.split(".")[0] for k in kept} == learning


def test_photographs_of_other_classes_are_refused(write, photographs):
    (photographs / "classnames.txt").write_text("dog\nhorse\n")
    with pytest.raises(UserError, match="no labels of the reference's classes"):
        reward(write(photographs=str(photographs)))
    with pytest.raises(UserError, match="nowhere"):
        reward(write(photographs="nowhere"))


@pytest.mark.parametrize("changes, says", [
    ({"classifiers": []}, "classifiers"),
    ({"embeddings": 0}, "embeddings"),
    ({"tuning": {"trained_steps": 9}}, "9 of 3 steps learn"),
    ({"reference": "nowhere"}, "no model folder nowhere"),
    ({"train": {"init_from": "nothing"}}, "train.init_from=nothing is no file"),
])  # fmt: skip
def test_settings_that_do_not_fit_end_in_a_line_before_training(write, tmp_path, changes, says):
    with pytest.raises(UserError) as error:
        reward(write(**changes))
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()


def test_a_model_without_classes_is_refused(write, model_files, tmp_path):
    with pytest.raises(UserError, match="has no classes to be recognised"):
        reward(write(reference=str(model_files)))
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()


def test_no_decoder_is_lost(write, labelled_files, tmp_path):
    with pytest.raises(UserError, match="out is the reference's own folder"):
        reward(write(out=str(labelled_files)))
    shutil.copytree(labelled_files, tmp_path / "out")
    with pytest.raises(UserError, match="has a decoder, which would be lost"):
        reward(write())

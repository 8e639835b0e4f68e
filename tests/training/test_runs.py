"""The trainings themselves, on a set of a few pictures and models of a few thousand weights."""

import json

import pytest
import torch
import yaml
from conftest import CLIP_CONFIG, CONVOLUTIONS, SIDE, TEXT_LENGTH, TEXT_WIDTH, UNET, D
from data.pictures import captioned_tar, png, write_tar
from safetensors.torch import load_file

from unclip.clip import FrozenCLIP
from unclip.data.captions import ClassCaptions
from unclip.data.embeddings import read_embeddings
from unclip.decoder import Decoder
from unclip.errors import UserError
from unclip.model_index import read_classes
from unclip.pipeline import UnCLIP
from unclip.prior import DiffusionPrior
from unclip.training import runs
from unclip.training.config import RunConfig
from unclip.training.sources import Source

from .conftest import OPTIMIZER, write_config

TRANSFORMER = {"width": 32, "layers": 1, "heads": 2}
MODELS = {
    "prior": {"transformer": TRANSFORMER},
    "decoder": {"unet": UNET},
    "upsampler": {"unet": CONVOLUTIONS, "scale": 2},
}


@pytest.fixture
def shards(tmp_path):
    """Captioned shards as img2dataset leaves them: no splits."""
    for shard in range(2):
        captioned_tar(tmp_path / "shards" / f"{shard:05d}.tar", range(30 * shard, 30 * shard + 30))
    return tmp_path / "shards"


@pytest.fixture
def write(tmp_path, shards, model_files):
    """Writes a config of a part; keyword sections are merged into it."""

    def write(part, **changes):
        sections = {
            "data": {"folder": str(shards), "image_size": SIDE, "workers": 0},
            "optimizer": OPTIMIZER,
            "train": {"run": str(tmp_path / f"run-{part}"), "batch_size": 4, "steps": 2, "precision": "no", "val_samples": 8},
        }
        if part == "clip":
            sections["data"]["image_size"] = 16
            sections["model"] = {"architecture": CLIP_CONFIG}
        else:
            sections |= {"out": str(tmp_path / "out"), "clip": {"name": str(model_files / "clip"), "unit_variance": True}}
            sections["model"] = MODELS[part]
        return write_config(tmp_path / f"{part}.yaml", sections, changes)

    return write


@pytest.mark.parametrize("in_memory", [True, False])
def test_prior_and_decoder_make_a_model(write, tmp_path, in_memory, capsys):
    prior = write("prior", data={"in_memory": in_memory})
    runs.train_prior(prior)
    runs.train_decoder(write("decoder", data={"in_memory": in_memory}))
    images = UnCLIP.from_pretrained(tmp_path / "out")("picture 3", num_inference_steps=1, prior_num_inference_steps=1)
    assert images[0].size == (SIDE, SIDE)
    assert not (tmp_path / "out" / "classes.json").exists()  # these pictures have captions of their own
    trained = DiffusionPrior.from_pretrained(tmp_path / "out" / "prior")
    assert (trained.transformer.text_dim, trained.transformer.text_length, trained.embed_dim) == (TEXT_WIDTH, TEXT_LENGTH, D)
    kept = yaml.safe_load((tmp_path / "run-prior" / "config.yaml").read_text())["model"]
    assert kept["embed_dim"] == D and kept["transformer"]["text_length"] == TEXT_LENGTH
    assert (tmp_path / "run-decoder" / "samples" / "0000002.png").is_file()
    log = json.loads((tmp_path / "run-prior" / "log.jsonl").read_text())
    assert {"val_loss", "cosine", "cosine_other"} <= set(log)
    held_out = "one in 20, are held out" if in_memory else "00001.tar is held out"
    assert held_out in capsys.readouterr().out
    fingerprint = next((tmp_path / "shards").glob("00000.*.safetensors")).name.split(".")[1]
    known = list(read_embeddings(tmp_path / "shards" / "00000.tar", fingerprint).values())
    if not in_memory:  # statistics from the files, less the shard that is held out
        torch.testing.assert_close(trained.mean, torch.stack(known)[:, 0].float().mean(0), atol=1e-2, rtol=1e-2)
    # what was saved as the run's config is a config: it runs again
    runs.train_prior(tmp_path / "run-prior" / "config.yaml", ["train.steps=3"])
    assert len((tmp_path / "run-prior" / "log.jsonl").read_text().splitlines()) == 2


def test_a_prior_of_a_labelled_set_leaves_its_classes(write, tmp_path):
    folder = tmp_path / "labelled"
    files = [(f"{k:03d}.{kind}", content) for k in range(40) for kind, content in (("png", png(k)), ("cls", b"%d" % (k % 2)))]
    write_tar(folder / "train" / "0.tar", files)
    (folder / "classnames.txt").write_text("dog\nred car\n")
    runs.train_prior(write("prior", data={"folder": str(folder)}))
    known = read_classes(tmp_path / "out")
    assert known == ClassCaptions.of_folder(folder) and known.names == [["dog"], ["red car"]]
    runs.train_decoder(write("decoder", data={"folder": str(folder)}))
    model = UnCLIP.from_pretrained(tmp_path / "out")
    assert model.rivals.of(model.texts(["two dogs", "a house"]).prompts)[1].tolist() == [[False, True], [False, False]]
    runs.train_prior(write("prior", train={"run": str(tmp_path / "captioned")}))
    assert read_classes(tmp_path / "out") is None  # those of the prior before


def test_a_streamed_prior_reads_the_texts_that_embed_wrote(
    write, tmp_path, shards, run_script, model_files, capsys, monkeypatch
):  # fmt: skip
    asked, encode = set(), FrozenCLIP.encode_text
    monkeypatch.setattr(FrozenCLIP, "encode_text", lambda clip, lines: asked.update(lines) or encode(clip, lines))

    def encoded(run):
        """The pictures whose captions a training has CLIP read: 0 to 29 train, the others are held out."""
        asked.clear()
        runs.train_prior(write("prior", data={"in_memory": False}, train={"run": str(tmp_path / run)}))
        return {int(line.removeprefix("picture ")) for line in asked if line}

    assert min(encoded("plain")) < 30
    clip = ("--clip", model_files / "clip", "--device", "cpu", "--unit-variance", "--dtype", "float32")
    assert run_script("embed", *clip, "--data", shards, "--texts")[0] == 0
    assert min(encoded("read")) >= 30
    assert "lie beside 1 of 1 shards: what they have is not encoded again" in capsys.readouterr().out


def test_the_decoder_with_text_in_two_parts_of_a_batch(write, tmp_path):
    decoder = write("decoder", model={"text_dim": TEXT_WIDTH}, train={"accumulate": 2})
    runs.train_decoder(decoder)
    runs.train_decoder(tmp_path / "run-decoder" / "config.yaml", ["train.steps=3"])
    assert Decoder.from_pretrained(tmp_path / "out" / "decoder").text_to_tokens.in_features == TEXT_WIDTH


@pytest.mark.parametrize("told", [False, True])
def test_an_upsampler_joins_a_model(write, tmp_path, model_copy, told):
    model = {"unet": CONVOLUTIONS, "scale": 2}
    changes = {"out": str(model_copy), "data": {"image_size": 2 * SIDE}, "model": model}
    runs.train_upsampler(write("upsampler", **changes, **({} if told else {"clip": None})))
    runs.train_upsampler(tmp_path / "run-upsampler" / "config.yaml", ["train.steps=3"])
    assert (tmp_path / "run-upsampler" / "samples" / "0000003.png").is_file()
    (image,) = UnCLIP.from_pretrained(model_copy)("picture 3", upsampler_num_inference_steps=1)
    assert image.size == (2 * SIDE, 2 * SIDE)


def test_an_upsampler_that_does_not_fit_leaves_the_model_alone(write, model_copy):
    path = write("upsampler", out=str(model_copy), clip=None, data={"image_size": 4 * SIDE})
    with pytest.raises(UserError, match=f"takes {2 * SIDE}x{2 * SIDE}, but .* draws {SIDE}x{SIDE}"):
        runs.train_upsampler(path)
    assert UnCLIP.from_pretrained(model_copy).stages == ["base"]


def test_a_clip_is_trained_and_then_used(write, tmp_path):
    runs.train_clip(write("clip", model={"architecture": CLIP_CONFIG, "crop": [12, 16], "train_size": 16, "low_resolution": 0.5}))
    runs.train_prior(write("prior", clip={"name": str(tmp_path / "run-clip" / "clip"), "unit_variance": False}))
    assert json.loads((tmp_path / "out" / "model_index.json").read_text())["clip"]["name"] == "clip"


@pytest.mark.parametrize("part, changes, message", [
    ("prior", {"model": {"embed_dim": D + 1}}, f"model.embed_dim is {D + 1}, but the CLIP's is {D}: leave it out"),
    ("prior", {"model": {"transformer": {**TRANSFORMER, "text_dim": 9}}}, "model.transformer.text_dim is 9, but the CLIP's"),
    ("prior", {"model": {"transformer": {**TRANSFORMER, "text_length": 9}}}, "text_length is 9, but the CLIP's is"),
    ("prior", {"model": {"transformer": {**TRANSFORMER, "text_embed_dim": 9}}}, "text_embed_dim is 9, but the CLIP's is"),
    ("prior", {"model": {"transformer": {**TRANSFORMER, "heads": 5}}}, "heads=5 does not divide width=32"),
    ("decoder", {"model": {"embed_dim": D + 1}}, "model.embed_dim is"),
    ("decoder", {"model": {"text_dim": TEXT_WIDTH + 1}}, "model.text_dim is"),
    ("decoder", {"model": {"image_size": 2 * SIDE}}, f"model.image_size is {2 * SIDE}, but data.image_size is {SIDE}"),
    ("decoder", {"model": {"learned_variance": True}}, "learned_variance=True needs vlb_weight > 0"),
    ("decoder", {"data": {"image_size": SIDE + 1}}, "is no multiple of 2"),
    ("decoder", {"model": {"unet": {**UNET, "head_dim": None}}}, "head_dim is needed where there is attention"),
    ("decoder", {"clip": {"name": "nothing"}}, "nothing"),
    ("upsampler", {"model": {"embed_dim": D + 1}}, "model.embed_dim is"),
    ("upsampler", {"model": {"embed_dim": D}, "clip": None}, "model.embed_dim is of a CLIP's embeddings: say in clip.name"),
    ("upsampler", {"clip": None, "model": {"scale": 3}}, "scale=3"),
    ("upsampler", {"clip": None, "model": {"last_step": True}}, "model.last_step is for weights trained elsewhere"),
    ("upsampler", {"clip": None, "model": {"unet": {**CONVOLUTIONS, "attention_levels": [1]}}}, "attention_levels"),
    ("clip", {"model": {"architecture": {"embed_dim": 4}}}, "text_cfg"),
    ("clip", {"model": {"architecture": CLIP_CONFIG, "crop": [8, 99]}}, "model.crop is [8, 99]"),
    ("clip", {"model": {"architecture": CLIP_CONFIG, "towers": "image"}}, "learns from labels, which these pictures lack"),
    ("clip", {"model": {"architecture": CLIP_CONFIG, "towers": "means"}}, "say in train.init_from whose"),
    ("clip", {"model": {"architecture": CLIP_CONFIG, "towers": "means", "mix": 0.5}, "train": {"init_from": __file__}}, "leave out mix"),
    ("clip", {"data": {"folder": "nowhere"}}, "no data folder nowhere"),
    ("decoder", {"train": {"init_from": "a/b"}}, "train.init_from=a/b is no file"),
    ("decoder", {"train": {"init_from": "/"}}, "train.init_from=/ is no file: name the .safetensors file"),
])  # fmt: skip
def test_settings_that_do_not_fit_end_in_a_line_before_training(write, tmp_path, part, changes, message):
    with pytest.raises(UserError) as error:
        getattr(runs, f"train_{part}")(write(part, **changes))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("run-*")) and not (tmp_path / "out").exists()


def test_a_run_goes_on_without_the_weights_that_it_began_with(write, tmp_path):
    first = tmp_path / "first"
    runs.train_decoder(write("decoder", out=str(first), train={"run": str(first), "steps": 1}))
    weights = first / "decoder" / "model.safetensors"
    begun = {"run": str(tmp_path / "run-x"), "init_from": str(weights)}
    with pytest.raises(UserError, match="init_from=.* is no file"):
        runs.train_decoder(write("decoder", train={**begun, "init_from": str(weights.parent), "steps": 1}))
    runs.train_decoder(write("decoder", train={**begun, "steps": 1}))
    weights.unlink()
    runs.train_decoder(write("decoder", train={**begun, "steps": 2}))
    assert len((tmp_path / "run-x" / "log.jsonl").read_text().splitlines()) == 2


def test_the_seed_draws_the_first_weights():
    config = RunConfig(
        data={"folder": "x", "image_size": 8}, optimizer=OPTIMIZER, train={"run": "x", "batch_size": 1, "steps": 1, "seed": 3}
    )
    first = runs.build(torch.nn.Linear, config, "x.yaml", 3, 3)
    assert torch.equal(first.weight, runs.build(torch.nn.Linear, config, "x.yaml", in_features=3, out_features=3).weight)
    config.train.seed = 4
    assert not torch.equal(first.weight, runs.build(torch.nn.Linear, config, "x.yaml", 3, 3).weight)


def source(folder, reader=None, **data):
    config = RunConfig(
        data={"folder": str(folder), "image_size": 8, "workers": 0, **data}, optimizer=OPTIMIZER,
        train={"run": "none", "batch_size": 4, "steps": 1},
    )  # fmt: skip
    lines = []
    return Source(config, reader=reader, say=lines.append), lines


def test_a_set_without_splits_holds_every_twentieth_out(shards):
    pictures, lines = source(shards)
    held_out = pictures.val_table.keys
    assert held_out == ["0019", "0039", "0059"] and len(pictures.table) == 57
    assert not set(held_out) & set(pictures.table.keys)
    assert len(lines) == 2 and "3 pictures, one in 20, are held out" in lines[0]


@pytest.mark.parametrize("count, held_out", [(1, ["0000"]), (2, ["0001"]), (5, ["0004"])])
def test_very_small_sets(tmp_path, count, held_out):
    captioned_tar(tmp_path / "0.tar", range(count))
    pictures, _ = source(tmp_path)
    assert pictures.val_table.keys == held_out and len(pictures.table) == max(1, count - 1)


def test_a_set_with_splits_uses_them(tmp_path):
    captioned_tar(tmp_path / "train" / "0.tar", range(5))
    captioned_tar(tmp_path / "test" / "0.tar", range(5, 7))
    pictures, lines = source(tmp_path)
    assert len(pictures.table) == 5 and pictures.val_table.keys == ["0005", "0006"] and len(lines) == 1
    assert pictures.words() == ["0", "1", "2", "3", "4", "picture"]
    same, _ = source(tmp_path, val_split="train")
    assert len(same.table) == 4 and len(same.val_table) == 1


def test_what_does_not_fit_into_memory_is_streamed(shards, monkeypatch):
    limit = "unclip.training.sources.IN_MEMORY"
    monkeypatch.setattr(limit, 50 * 3 * 8 * 8)
    pictures, lines = source(shards)
    assert pictures.table is None and pictures.words() is None and "streamed" in lines[-1]
    assert pictures.val_table.keys == [f"{n:04d}" for n in range(30, 60)]  # the last shard
    keys = {key for step in range(40) for key in pictures.training().at(step)["key"]}
    assert keys and max(keys) < "0030"
    assert source(shards, in_memory=True)[0].table is not None
    monkeypatch.setattr(limit, 100 * 3 * 8 * 8)
    assert source(shards)[0].table is not None
    monkeypatch.setattr(limit, 1)
    (shards / "00001.tar").unlink()
    with pytest.raises(UserError, match="one shard and no split 'test'"):
        source(shards)


def test_streamed_labelled_set_has_its_words(tmp_path):
    (tmp_path / "classnames.txt").write_text("dog\nred fox\n")
    for split in ("train", "test"):
        files = [(f"{n}.{e}", c) for n in range(6) for e, c in (("png", png(n)), ("cls", b"%d" % (n % 2)))]
        write_tar(tmp_path / split / "0.tar", files)
    pictures, _ = source(tmp_path, dict, in_memory=False)
    assert pictures.words() == ["a", "dog", "fox", "of", "photo", "red"]
    assert pictures.training().at(0)["concept"][0] in ("dog", "red fox") and len(pictures.val_table) == 6


@pytest.fixture
def labelled(tmp_path):
    """Six training pictures and two held out, of a dog, an ox and a cat in turn."""
    (tmp_path / "classnames.txt").write_text("poodle\nox\ntabby\n")
    captions = {"names": [["poodle"], ["ox"], ["tabby"]], "nouns": [["dog", "animal"], ["animal"], ["cat"]]}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    for split, count in (("train", 6), ("test", 2)):
        files = [(f"{n}.{e}", c) for n in range(count) for e, c in (("png", png(n)), ("cls", b"%d" % (n % 3)))]
        write_tar(tmp_path / split / "0.tar", files)
    return tmp_path


def test_a_clip_learns_one_tower_at_a_time_and_then_both(write, labelled, tmp_path):
    """Each part begins where the one before it ended, and moves what it is to move."""
    weights, part = {}, None
    for towers in ("image", "text", "both", "means"):
        begin = {"init_from": str(part / "clip" / "open_clip_model.safetensors")} if part else {}
        part = tmp_path / f"run-{towers}"
        data, model = {"folder": str(labelled)}, {"architecture": CLIP_CONFIG, "towers": towers}
        runs.train_clip(write("clip", data=data, model=model, train={"run": str(part), **begin}))
        weights[towers] = load_file(part / "clip" / "open_clip_model.safetensors")
    image, text, both, means = weights.values()
    assert image.keys() == text.keys() == both.keys() == means.keys()
    moved = {k for k in image if not torch.equal(image[k], text[k])}
    assert "text_projection" in moved and not any(k.startswith("visual.") for k in moved)
    moved = {k for k in text if not torch.equal(text[k], both[k])}
    assert "text_projection" in moved and any(k.startswith("visual.") for k in moved)
    moved = {k for k in both if not torch.equal(both[k], means[k])}
    assert "text_projection" in moved and not any(k.startswith("visual.") or k == "logit_scale" for k in moved)


def test_concepts_that_are_repeated_come_more_often(labelled):
    pictures, lines = source(labelled, repeat={"dog": 3, "animal": 2})
    assert sorted(pictures.table.keys) == sorted("000" "333" "11" "44" "2" "5")
    assert len(pictures.val_table) == 2 and lines[-1].startswith("6 pictures to train on")
    seen = [key for step in range(3) for key in pictures.training().at(step)["key"]]
    assert sorted(seen) == sorted(pictures.table.keys)  # an epoch


@pytest.mark.parametrize("data, says", [
    ({"best": 0.5}, "data.best is for sets in memory"), ({"repeat": {"dogg": 2}}, "did you mean 'dog'"),
    ({"repeat": {"dog": 2}, "in_memory": False}, "data.in_memory=true"),
])  # fmt: skip
def test_what_cannot_be_chosen(labelled, data, says):
    with pytest.raises(UserError, match=says):
        source(labelled, **data)


def test_validation_batches_are_the_same_in_every_run(shards):
    first, second = (source(shards)[0].validation() for _ in range(2))
    assert len(first) == 1 and torch.equal(first[0]["image"], second[0]["image"]) and first[0]["key"] == second[0]["key"]


@pytest.mark.parametrize("in_memory", [True, False])
def test_captions_are_drawn_where_somebody_reads_them(shards, in_memory):
    def batches(reader):
        pictures, _ = source(shards, reader, in_memory=in_memory)
        return [pictures.training().at(0), *pictures.validation()]

    for batch in batches(None):
        assert "caption" not in batch and "known" not in batch
    for batch in batches(lambda batch: {**batch, "read": batch["caption"]}):
        assert batch["read"] == [f"picture {int(key)}" for key in batch["key"]]


@pytest.mark.parametrize("text_dim", [None, TEXT_WIDTH])
def test_a_decoder_gets_the_captions_that_it_reads(write, monkeypatch, text_dim):
    seen = []
    loss = Decoder.loss
    monkeypatch.setattr(Decoder, "loss", lambda self, batch, generator=None: seen.append(batch) or loss(self, batch, generator))
    runs.train_decoder(write("decoder", model={"text_dim": text_dim} if text_dim else {}))
    assert len(seen) == 3  # two steps and a validation
    assert all(("caption" in batch) == ("text_states" in batch) == bool(text_dim) for batch in seen)

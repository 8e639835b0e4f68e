"""Upsamplers that train on small pictures which the stages before them drew."""

import pytest
import torch
import yaml
from conftest import CONVOLUTIONS, SIDE, D
from data.pictures import captioned_tar
from safetensors.torch import load_file

from unclip.augmentation import smaller
from unclip.config import load_config
from unclip.data.images import to_bytes, to_float
from unclip.data.table import Table
from unclip.errors import UserError
from unclip.pipeline import UnCLIP
from unclip.training import redrawn, runs
from unclip.training.redrawn import redraw, redrawn_batches
from unclip.training.sources import Source
from unclip.upsampler import Upsampler

from .conftest import OPTIMIZER, write_config
from .toys import counters_of

HALF = {"share": 0.5, "strength": [0.4, 0.9], "pictures": 20}


@pytest.fixture
def write(tmp_path, model_files):
    """Writes a config of a first upsampler; keyword sections are merged into it."""
    captioned_tar(tmp_path / "shards" / "0.tar", range(40))

    def write(**changes):
        sections = {
            "out": str(tmp_path / "out"),
            "redrawn": {"model": str(model_files), **HALF},
            "data": {"folder": str(tmp_path / "shards"), "image_size": 2 * SIDE, "workers": 0},
            "model": {"unet": CONVOLUTIONS, "scale": 2, "crop": SIDE},
            "optimizer": OPTIMIZER,
            "train": {"run": str(tmp_path / "run"), "batch_size": 6, "steps": 3, "precision": "no", "val_samples": 8,
                      "ema": 0.5},
        }  # fmt: skip
        return write_config(tmp_path / "upsampler.yaml", sections, changes)

    return write


def pictures(count, side=2 * SIDE):
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def shrunk(images):
    return to_bytes(smaller(to_float(images), 2))


def table(count):
    return Table(pictures(count), [str(n) for n in range(count)], ["0.tar"] * count, captions=[["a picture"]] * count)


# ---- redrawing -------------------------------------------------------------------------------------------------------

def test_little_strength_changes_little_and_more_changes_more(model):
    """In a hundred steps, of which the least strength takes one."""
    fine = UnCLIP(model.clip, model.prior, model.decoder, model.settings(num_inference_steps=100))
    images = pictures(8)
    away = [(to_float(redraw(fine, 1, images, (s, s), 0, shown=False)) - smaller(to_float(images), 2)).square().mean().sqrt()
            for s in (0.01, 0.1, 0.4, 1.0)]  # fmt: skip
    assert away[0] < 0.05 and away[0] < away[1] < away[2] < away[3]


@pytest.mark.parametrize("stage, side, upsamplers", [(1, SIDE, 0), (2, 2 * SIDE, 1)])
def test_the_decoder_begins_with_the_picture_and_the_stages_between_with_noise(cascade, monkeypatch, stage, side, upsamplers):
    asked = []
    for part in (cascade.decoder, *cascade.upsamplers):

        def sample(first, *rest, part=part, own=part.sample, **options):
            asked.append((part, first, options))
            return own(first, *rest, **options)

        monkeypatch.setattr(part, "sample", sample)
    monkeypatch.setattr(redrawn, "TOGETHER", 4)
    images = pictures(6, 2 * side)
    small = redraw(cascade, stage, images, (0.4, 0.9), 7, shown=False)
    assert small.shape == (6, 3, side, side) and small.dtype == torch.uint8
    assert [part for part, _, _ in asked] == [cascade.decoder, *cascade.upsamplers[:upsamplers]] * 2
    ours = [(embeds, options) for part, embeds, options in asked if part is cascade.decoder]
    starts = [options["start"] for _, options in ours]
    torch.testing.assert_close(torch.cat([s.picture for s in starts]), smaller(to_float(images), 2 * side // SIDE))
    torch.testing.assert_close(torch.cat([embeds for embeds, _ in ours]), cascade.clip.encode_image(to_float(images)))
    assert all(0.4 <= s.strength <= 0.9 for s in starts) and starts[0].strength != starts[1].strength
    assert all(options["num_inference_steps"] == 3 for _, options in ours)  # the model's default
    assert all(options["start"] is None for part, _, options in asked if part is not cascade.decoder)


def test_the_seed_decides(model):
    images = pictures(5)
    drawn = [redraw(model, 1, images, (0.4, 0.9), seed, shown=False) for seed in (3, 3, 4)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    twice = redraw(model, 1, images[:1].repeat(2, 1, 1, 1), (0.9, 0.9), 3, shown=False)
    assert not torch.equal(twice[0], twice[1])  # each has its own noise


# ---- batches ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def batches(write, monkeypatch):
    """Makes the batches of 40 pictures, with negatives in the place of what a model draws."""
    monkeypatch.setattr(redrawn, "redraw", lambda model, stage, images, *rest, **options: 255 - shrunk(images))

    def batches(seed=0, size=6, count=40, mirror=True, **changes):
        path = write(redrawn={**HALF, **changes}, train={"seed": seed, "batch_size": size}, data={"mirror": mirror})
        return redrawn_batches(load_config(runs.UpsamplerRun, path), table(count), 2)

    return batches


def are_negatives(batch):
    """bool (B,): which small pictures are those of the model; the others are the pictures shrunk, or this fails."""
    plain = shrunk(batch["image"]).float()
    far, near = ((batch["small"].float() - other).abs().amax((1, 2, 3)) for other in (plain, 255 - plain))
    assert torch.equal(far > 1, near <= 1)  # of mirrored pictures the means are rounded in another order
    return near <= 1


@pytest.mark.parametrize("share, size, count", [(0.5, 6, 3), (0.3, 10, 3), (1.0, 5, 5), (0.01, 5, 1), (0.5, 1, 1)])
def test_the_share_of_every_batch_is_redrawn(batches, share, size, count):
    made = batches(share=share, size=size)
    for step in range(4):
        batch = made.at(step)
        assert batch["image"].shape == (size, 3, 16, 16) and batch["small"].shape == (size, 3, 8, 8)
        assert batch["small"].dtype == torch.uint8 and len(batch["key"]) == size
        assert are_negatives(batch).sum() == count


def test_small_pictures_are_mirrored_with_the_pictures(batches):
    images, made, turned = pictures(40), batches(), []
    for step in range(5):
        batch = made.at(step)
        are_negatives(batch)
        turned.append([not torch.equal(image, images[int(key)]) for image, key in zip(batch["image"], batch["key"])])
    redrawn_ones, others = [row[:3] for row in turned], [row[3:] for row in turned]
    assert {t for row in turned for t in row} == {True, False} and redrawn_ones != others


@pytest.mark.parametrize("asked, given", [(7, 7), (40, 40), (1000, 40)])
def test_as_many_pictures_are_redrawn_as_are_asked_for_or_there_are(batches, asked, given):
    made, redrawn_keys, other_keys = batches(pictures=asked), [], []
    for step in range(2 * 40):
        batch = made.at(step)
        for key, negative in zip(batch["key"], are_negatives(batch).tolist()):
            (redrawn_keys if negative else other_keys).append(key)
    assert len(set(redrawn_keys)) == given and set(other_keys) == {str(n) for n in range(40)}


def test_batches_are_a_function_of_seed_and_step(batches):
    first, again, other = batches(seed=5), batches(seed=5), batches(seed=6)
    straight = [first.at(step) for step in range(6)]
    for step in (5, 0, 3):
        batch = again.at(step)
        assert batch["key"] == straight[step]["key"]
        assert torch.equal(batch["image"], straight[step]["image"]) and torch.equal(batch["small"], straight[step]["small"])
    assert [other.at(step)["key"] for step in range(6)] != [batch["key"] for batch in straight]


def test_what_is_not_redrawn_comes_as_without(batches, write):
    """The same pictures in the same order, as in batches of that size."""
    made = batches(mirror=False)
    config = load_config(runs.UpsamplerRun, write(redrawn=None, train={"batch_size": 3}, data={"mirror": False}))
    plain = Source(config, say=lambda line: None)
    plain.table = table(40)
    for step in range(4):
        ours, theirs = made.at(step), plain.training().at(step)
        assert "small" not in theirs
        assert ours["key"][3:] == theirs["key"] and torch.equal(ours["image"][3:], theirs["image"])


# ---- runs ------------------------------------------------------------------------------------------------------------

@pytest.fixture
def losses(monkeypatch):
    """Notes the batches of losses: (in training?, batch)."""
    loss, seen = Upsampler.loss, []
    monkeypatch.setattr(Upsampler, "loss", lambda self, batch, generator=None: seen.append((self.training, batch))
                        or loss(self, batch, generator))  # fmt: skip
    return seen


@pytest.mark.parametrize("stage, told", [(1, False), (2, True)])
def test_training_has_redrawn_pictures_and_validation_has_not(write, losses, cascade_files, tmp_path, stage, told):
    side = SIDE * 2**stage
    clip = {"clip": {"name": str(cascade_files / "clip"), "unit_variance": True}} if told else {}
    runs.train_upsampler(write(stage=stage, redrawn={"model": str(cascade_files)}, data={"image_size": side}, **clip))
    assert {training for training, _ in losses} == {True, False}
    for training, batch in losses:
        assert ("small" in batch) == training and ("image_embed" in batch) == told
        assert not training or batch["small"].shape == (6, 3, side // 2, side // 2)
        assert not told or batch["image_embed"].shape == (len(batch["image"]), D)
    assert Upsampler.from_pretrained(tmp_path / "out" / f"upsampler-{stage}").image_size == side
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert kept["redrawn"] == {"model": str(cascade_files), **HALF}


def test_a_stopped_run_goes_on_as_if_it_had_not_been(write, interrupted, tmp_path):
    runs.train_upsampler(write(train={"run": str(tmp_path / "straight")}, out=str(tmp_path / "one")))
    interrupted(Upsampler, lambda: runs.train_upsampler(write(out=str(tmp_path / "two"))))
    assert counters_of(tmp_path / "run")["step"] == 2
    runs.train_upsampler(tmp_path / "run" / "config.yaml")
    assert counters_of(tmp_path / "run")["step"] == 3
    weights = [load_file(tmp_path / name / "upsampler-1" / "model.safetensors") for name in ("one", "two")]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_without_it_no_batch_has_small_pictures(write, losses):
    runs.train_upsampler(write(redrawn=None))
    assert losses and not any("small" in batch for _, batch in losses)


@pytest.mark.parametrize("changes, says", [
    ({"redrawn": {"share": 0}}, "redrawn.share = 0: "),
    ({"redrawn": {"share": 1.5}}, "redrawn.share = 1.5: "),
    ({"redrawn": {"strength": [0.3, 0.1]}}, "redrawn.strength is [0.3, 0.1]: name a smallest and a largest"),
    ({"redrawn": {"strength": [0, 0.1]}}, "redrawn.strength is [0.0, 0.1]"),
    ({"redrawn": {"strength": [0.1, 1.1]}}, "redrawn.strength is [0.1, 1.1]"),
    ({"redrawn": {"pictures": 0}}, "redrawn.pictures = 0: "),
    ({"redrawn": {"pictuers": 9}}, "unknown key 'redrawn.pictuers' (did you mean 'pictures'?)"),
    ({"redrawn": {"model": "nowhere"}}, "no model folder nowhere"),
    ({"data": {"image_size": 4 * SIDE}}, f"takes {2 * SIDE}x{2 * SIDE}, but redrawn.model"),
    ({"stage": 2}, "has no upsampler-1: name a model that has the stages before this one"),
    ({"data": {"in_memory": False, "val_split": "none"}}, "redrawn is for sets in memory: set data.in_memory=true"),
])  # fmt: skip
def test_settings_that_do_not_fit_end_in_a_line_before_training(write, tmp_path, changes, says):
    captioned_tar(tmp_path / "shards" / "1.tar", range(40, 50))
    with pytest.raises(UserError) as error:
        runs.train_upsampler(write(**changes))
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()

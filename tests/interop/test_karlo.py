"""Karlo's own checkpoints against networks written from its description."""

import json
import shutil

import pytest
import torch

from unclip.decoder import Decoder
from unclip.errors import UserError
from unclip.interop.importing import import_karlo
from unclip.interop.karlo_layout import DEFAULTS, FILES
from unclip.prior import DiffusionPrior
from unclip.upsampler import Upsampler

from .conftest import DIM, LENGTH

SMALL = "Karlo's checkpoints, small"


@pytest.fixture
def model(karlo_folder, tmp_path):
    import_karlo(karlo_folder, tmp_path / "model", clip="ViT-L-14", pretrained="openai")
    return tmp_path / "model"


@torch.no_grad()
def test_the_prior(karlo_parts, model, conditions, parity):
    prior = DiffusionPrior.from_pretrained(model / "prior")
    mean, std = karlo_parts["statistics"]
    assert torch.equal(prior.mean, mean) and torch.equal(prior.std, std)
    assert prior.options["clamp"] == 10 and prior.denoiser.prediction == "x_0"
    x_t, t, text = torch.randn(2, DIM), conditions["t"], conditions["text"]
    theirs = karlo_parts["prior"](x_t, t, *text.values())
    parity("prior", SMALL, prior.network(x_t, t, **prior.read(text)), theirs, 1e-5)


@torch.no_grad()
def test_the_decoder(karlo_parts, model, conditions, parity):
    decoder = Decoder.from_pretrained(model / "decoder")
    assert torch.equal(decoder.null_image, karlo_parts["decoder"].cf_param)
    assert decoder.image_size == 64 and decoder.denoiser.learned_variance
    x_t, t, image_embed, text = torch.randn(2, 3, 32, 32), conditions["t"], conditions["image_embed"], conditions["text"]
    theirs = karlo_parts["decoder"](x_t, t, image_embed, *text.values())
    parity("decoder", SMALL, decoder.network(x_t, t, **decoder.read(image_embed, **text)), theirs, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("last", [False, True])
def test_the_upsampler(karlo_parts, model, conditions, parity, last):
    upsampler = Upsampler.from_pretrained(model / "upsampler-1")
    assert upsampler.image_size == 256 and upsampler.scale == 4
    x_t, enlarged, t = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32), conditions["t"]
    theirs = karlo_parts["last" if last else "first"](torch.cat([x_t, enlarged], 1), t)
    name = f"upsampler, {'last step' if last else 'first steps'}"
    parity(name, SMALL, upsampler.network(x_t, t, enlarged, torch.zeros(2), last=last), theirs, 1e-5)


def test_the_model_says_how_karlo_samples(model):
    index = json.loads((model / "model_index.json").read_text())
    assert index["defaults"] == DEFAULTS
    assert index["clip"] == {"name": "ViT-L-14", "pretrained": "openai", "unit_variance": False, "fingerprint": None}


@pytest.mark.parametrize("dtype, stored", [("float16", torch.float16), (None, torch.float32)])
def test_weights_are_written_as_they_are_or_as_asked(karlo_folder, tmp_path, dtype, stored):
    from safetensors import safe_open

    import_karlo(karlo_folder, tmp_path / "model", dtype=dtype, clip="ViT-L-14", pretrained="openai")
    with safe_open(tmp_path / "model" / "prior" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {stored}


def damage(file, change):
    checkpoint = torch.load(file, weights_only=True)
    change(checkpoint["state_dict"])
    torch.save(checkpoint, file)


class Code:
    """An object of a class that no reader of tensors knows."""


@pytest.mark.parametrize("name", FILES)
def test_a_part_that_is_missing_cut_off_or_code_is_named_and_nothing_is_written(karlo_folder, tmp_path, name):
    file = karlo_folder / FILES[name]
    whole = file.read_bytes()
    torch.save({"state_dict": {"model.x": Code()}}, tmp_path / "code")
    lfs = b"version https://git-lfs.github.com/spec/v1"
    for content, says in [(None, "no (file|Karlo)"), (whole[: len(whole) // 2], "is damaged"), (b"", "is damaged"),
                          (lfs, "a download that failed"), (b"\x80\x02.", "is damaged"), (b"\x80", "is damaged"),
                          ((tmp_path / "code").read_bytes(), "could run its code: refused")]:  # fmt: skip
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(UserError, match=says) as caught:
            import_karlo(karlo_folder, tmp_path / "model", clip="ViT-L-14", pretrained="openai")
        assert "\n" not in str(caught.value) and FILES[name] in str(caught.value)
        assert not list(tmp_path.glob("model")) and not list(tmp_path.glob(".model*"))


def test_a_key_left_over_or_missing_and_a_wrong_shape_are_named(karlo_folder, tmp_path):
    prior, whole = karlo_folder / FILES["prior"], (karlo_folder / FILES["prior"]).read_bytes()
    for change, says in [
        (lambda state: state.update({"model.extra": torch.zeros(1)}), "has model.extra, which this DiffusionPrior has not"),
        (lambda state: state.pop("model.transformer.resblocks.1.attn.c_qkv.bias"), "lacks model.transformer.resblocks.1.attn"),
        (lambda state: state.update({"model.final_ln.bias": torch.zeros(5)}), "model.final_ln.bias is 5, which makes no 128"),
        (lambda state: state.clear(), "lacks model.clip_img_proj.weight"),
        (lambda state: state.update({"model.clip_img_proj.weight": torch.zeros(5)}), "clip_img_proj.weight is 5: it is another"),
        (lambda state: state.update({"model.text_enc_proj.weight": torch.tensor(1.0)}), "text_enc_proj.weight is a number"),
        (lambda state: state.update({"model.final_ln.bias": torch.zeros(128, dtype=torch.int8)}), "final_ln.bias is of int8"),
        (lambda state: state.update({"model.clip_img_proj.weight": torch.zeros(8, DIM)}), "describes no DiffusionPrior"),
    ]:
        prior.write_bytes(whole)
        damage(prior, change)
        with pytest.raises(UserError, match=says):
            import_karlo(karlo_folder, tmp_path / "model", clip="ViT-L-14", pretrained="openai")


def test_the_files_of_one_part_under_the_name_of_another(karlo_folder, tmp_path):
    shutil.copy(karlo_folder / FILES["upsampler"], karlo_folder / FILES["decoder"])
    with pytest.raises(UserError, match="decoder-ckpt.* lacks model.text_seq_proj"):
        import_karlo(karlo_folder, tmp_path / "model", clip="ViT-L-14", pretrained="openai")


def test_nothing_there_is_overwritten(karlo_folder, tmp_path):
    with pytest.raises(UserError, match="is not empty: name a new folder"):
        import_karlo(karlo_folder, karlo_folder)


def test_a_width_that_no_known_clip_has_asks_for_one(karlo_folder, tmp_path):
    with pytest.raises(UserError, match=f"embeddings of {DIM} numbers: say with --clip"):
        import_karlo(karlo_folder, tmp_path / "model")
    assert LENGTH == 77 and not (tmp_path / "model").exists()

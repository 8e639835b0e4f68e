import contextlib
import copy
import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

import unclip.part
from unclip.decoder import Decoder
from unclip.errors import UserError
from unclip.prior import DiffusionPrior


def one_line(error):
    """The message of a UserError, which is one line and no more."""
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    return text


@pytest.fixture
def saved(make_decoder, tmp_path):
    folder = tmp_path / "decoder"
    make_decoder().save(folder)
    return folder


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


# ---- there and back --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [{}, {"text_dim": 16, "image_tokens": 2, "spacing": "leading", "image_drop": 0.25}])
def test_a_decoder_comes_back_with_its_options(make_decoder, tmp_path, options):
    decoder = make_decoder(**options)
    decoder.save(tmp_path / "part", dtype=torch.float32)
    again = Decoder.from_pretrained(tmp_path / "part")
    assert not again.training
    for name, value in decoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    for name, value in options.items():
        if name != "text_dim":
            assert getattr(again, name) == value


def test_a_prior_comes_back_with_its_statistics(make_prior, tmp_path):
    prior = make_prior(clamp=4.0, text_drop=0.2)
    prior.save(tmp_path / "part", dtype=torch.float32)
    again = DiffusionPrior.from_pretrained(tmp_path / "part")
    assert (again.clamp, again.text_drop) == (4.0, 0.2)
    assert torch.equal(again.mean, prior.mean) and torch.equal(again.std, prior.std)


def test_half_precision_files_load_as_float32(make_decoder, tmp_path):
    decoder = make_decoder()
    decoder.save(tmp_path / "part")
    assert {t.dtype for t in load_file(tmp_path / "part" / "model.safetensors").values()} == {torch.float16}
    again = Decoder.from_pretrained(tmp_path / "part")
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    for name, value in decoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.half().float()), name


def test_save_pretrained_is_exact_and_loads(make_decoder, tmp_path, capsys):
    decoder = make_decoder(text_dim=16)
    decoder.save_pretrained(tmp_path / "part")
    again = Decoder.from_pretrained(tmp_path / "part")
    assert all(torch.equal(again.state_dict()[k], v) for k, v in decoder.state_dict().items())
    again.save_pretrained(tmp_path / "copy")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "copy" / file).read_bytes() == (tmp_path / "part" / file).read_bytes()
    assert capsys.readouterr().out == ""  # the standard output belongs to the scripts


def test_pushing_uploads_what_loads_again(make_prior, tmp_path, monkeypatch):
    """Against the calls of huggingface_hub, which makes the repository and copies the folder."""
    made = []

    def upload(self, *, repo_id, folder_path):
        shutil.copytree(folder_path, tmp_path / "hub")
        return repo_id

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: made.append((repo_id, options)))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    prior = make_prior(clamp=4.0)
    assert prior.push_to_hub("someone/some-prior", private=True) == "someone/some-prior"
    assert made == [("someone/some-prior", {"private": True, "exist_ok": True})]
    again = DiffusionPrior.from_pretrained(tmp_path / "hub")
    assert again.options == prior.options
    assert all(torch.equal(again.state_dict()[k], v) for k, v in prior.state_dict().items())


def test_a_copy_keeps_its_options(make_prior):
    prior = make_prior(clamp=4.0)
    assert copy.deepcopy(prior).options == prior.options and prior.options["clamp"] == 4.0


def test_the_config_holds_every_option(saved):
    import inspect

    options = set(inspect.signature(Decoder.__init__).parameters) - {"self"}
    assert set(json.loads((saved / "config.json").read_text())) == options


# ---- writing ---------------------------------------------------------------------------------------------------------

def test_saving_leaves_other_files_alone(make_decoder, saved):
    (saved / "README.md").write_text("mine")
    make_decoder(image_tokens=2).save(saved)
    assert (saved / "README.md").read_text() == "mine"
    assert Decoder.from_pretrained(saved).image_tokens == 2
    assert sorted(p.name for p in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_failed_save_leaves_what_was_there(make_decoder, saved, monkeypatch):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(unclip.part, "save_file", full)
    with pytest.raises(OSError):
        make_decoder(image_tokens=2).save(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


# ---- strictness ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, file):
    (saved / file).unlink()
    with pytest.raises(UserError) as error:
        Decoder.from_pretrained(saved)
    assert file in one_line(error)


def test_a_missing_or_empty_folder(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError) as error:
            Decoder.from_pretrained(folder)
        assert str(folder) in one_line(error)


@pytest.mark.parametrize("change, says", [
    (lambda t: t.pop("null_image"), "null_image"),
    (lambda t: t.update(extra_weight=torch.zeros(1)), "extra_weight"),
    (lambda t: t.update(null_image=torch.zeros(17)), "null_image"),
    (lambda t: t.clear(), "null_image"),
])  # fmt: skip
def test_weights_that_do_not_fit_are_named(saved, change, says):
    change_weights(saved, change)
    with pytest.raises(UserError) as error:
        Decoder.from_pretrained(saved)
    assert says in one_line(error)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9999])
def test_weights_cut_off(saved, share):
    weights = saved / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError) as error:
        Decoder.from_pretrained(saved)
    assert "model.safetensors is damaged" in one_line(error)


@pytest.mark.parametrize("content", ["", '{"unet": {', "[1, 2]", "null", "\x00\x01"])
def test_a_damaged_config(saved, content):
    (saved / "config.json").write_text(content)
    with pytest.raises(UserError) as error:
        Decoder.from_pretrained(saved)
    assert "config.json is damaged" in one_line(error)


def test_an_unknown_key_names_the_nearest(saved):
    change_config(saved, image_token=4)
    with pytest.raises(UserError) as error:
        Decoder.from_pretrained(saved)
    assert "'image_token'" in one_line(error) and "'image_tokens'" in one_line(error)


@pytest.mark.parametrize("changes", [
    {"image_size": "large"}, {"unet": {}}, {"unet": None}, {"embed_dim": -1}, {"prediction": "score"},
    {"vlb_weight": 1.0},
])  # fmt: skip
def test_a_config_with_wrong_values(saved, changes):
    change_config(saved, **changes)
    with pytest.raises(UserError) as error:
        Decoder.from_pretrained(saved)
    assert "config.json" in one_line(error)


def test_a_missing_option(saved):
    config = json.loads((saved / "config.json").read_text())
    del config["image_size"]
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        Decoder.from_pretrained(saved)
    assert "image_size" in one_line(error)


def test_the_config_of_another_part(make_prior, saved):
    make_prior().save(saved)
    with pytest.raises(UserError) as error:
        Decoder.from_pretrained(saved)
    assert "unknown key" in one_line(error)


def test_pickles_are_never_read(make_decoder, saved, monkeypatch):
    torch.save(make_decoder().state_dict(), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was read"))
    with pytest.raises(UserError, match="model.safetensors"):
        Decoder.from_pretrained(saved)


def test_a_hub_id_without_network_ends_in_one_line():
    with pytest.raises(UserError) as error:
        Decoder.from_pretrained("nobody/no-such-model")
    assert "nobody/no-such-model" in one_line(error)


# ---- files of strangers ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("changes", [
    {"image_size": 10**9}, {"image_size": -8}, {"image_size": 0}, {"embed_dim": 10**9}, {"image_tokens": 10**9},
    {"num_timesteps": 10**12}, {"num_timesteps": 10**9}, {"unet": {"channels": 10**9}}, {"unet": {"channels": 2**15}},
    {"unet": {"num_res_blocks": 10**6}}, {"unet": {"num_res_blocks": 60_000}}, {"unet": {"multipliers": ["x"]}},
    {"unet": {"multipliers": [1] * 10**5}}, {"spacing": 5}, {"unet": {"channels": True}}, {"image_drop": float("nan")},
    {"step_counts": [1] * 60_000},
])  # fmt: skip
def test_a_config_that_asks_for_too_much_takes_no_memory(saved, changes):
    """Whatever it takes is taken under a bound: of 300 MB, of which a refusal needs next to nothing."""
    config = json.loads((saved / "config.json").read_text())
    unet = {**config["unet"], **changes.pop("unet", {})}
    change_config(saved, unet=unet, **changes)
    with at_most(300e6), pytest.raises(UserError) as error:
        Decoder.from_pretrained(saved)
    assert "config.json" in one_line(error)


@pytest.mark.parametrize("layers", [3, 50_000, 10**6])
def test_a_prior_of_more_layers_than_its_file_holds(make_prior, tmp_path, layers):
    make_prior().save(tmp_path / "prior")
    config = json.loads((tmp_path / "prior" / "config.json").read_text())
    change_config(tmp_path / "prior", transformer={**config["transformer"], "layers": layers})
    with at_most(300e6), pytest.raises(UserError) as error:
        DiffusionPrior.from_pretrained(tmp_path / "prior")
    assert "config.json" in one_line(error)


@contextlib.contextmanager
def at_most(memory):
    """While it lasts, this process may not take more memory than so many bytes beyond what it has."""
    resource = pytest.importorskip("resource")
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + int(memory), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("dtype", ["I16", "U16", "BOOL"])
def test_weights_that_are_no_floating_point_numbers(saved, dtype):
    shape = [32] if dtype == "BOOL" else [16]  # as many bytes
    change_header(saved, lambda header: header["null_image"].update(dtype=dtype, shape=shape))
    with pytest.raises(UserError) as error:
        Decoder.from_pretrained(saved)
    assert "model.safetensors" in one_line(error)


@pytest.mark.parametrize("change", [
    lambda h: h["null_image"].update(shape=[10**12]), lambda h: h["null_image"].update(data_offsets=[0, 10**12]),
    lambda h: h["null_image"].update(data_offsets=[2**64 - 1, 0]), lambda h: h["null_image"].update(shape=[2**32, 2**32]),
    lambda h: h["null_image"].update(shape=[-16]),
    lambda h: h.update(more={"dtype": "F16", "shape": [2**40], "data_offsets": [0, 2**41]}),
])  # fmt: skip
def test_a_header_that_lies_about_sizes(saved, change):
    change_header(saved, change)
    with at_most(300e6), pytest.raises(UserError) as error:
        Decoder.from_pretrained(saved)
    assert "model.safetensors is damaged" in one_line(error)


def change_header(folder, change):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def test_a_deep_config_and_a_long_one(saved):
    for content in ("[" * 100_000, '{"unet": ' * 100_000, json.dumps({"x": "y" * 20_000_000})):
        (saved / "config.json").write_text(content)
        with pytest.raises(UserError) as error:
            Decoder.from_pretrained(saved)
        assert "config.json is damaged" in one_line(error)

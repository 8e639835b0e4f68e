"""The two scripts, what they fetch from the hub, and their ends in one line."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from unclip import cli
from unclip.errors import UserError
from unclip.interop.fetch import fetch, files_of
from unclip.pipeline import UnCLIP

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
WEIGHTS = "diffusion_pytorch_model"
CLIP = ("--clip", "ViT-L-14", "--pretrained", "openai")


def run(name, *argv):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    cli.run(lambda: script.main([str(a) for a in argv]))


def test_karlo_and_back(diffusers_folder, tmp_path, capsys):
    run("import_weights", "karlo", "--source", diffusers_folder, "--out", tmp_path / "karlo", *CLIP,
        "--dtype", "bfloat16")  # fmt: skip
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'karlo'}\n")
    run("export_weights", "diffusers", "--model", tmp_path / "karlo", "--out", tmp_path / "again")
    assert capsys.readouterr().out == f"prior, decoder, upsampler-1: {tmp_path / 'again'}\n"
    names = {p.name for p in diffusers_folder.iterdir()}
    assert {p.name for p in (tmp_path / "again").iterdir()} == names


def test_a_prior_alone_says_what_the_model_lacks(diffusers_folder, tmp_path):
    run("import_weights", "prior", "--source", diffusers_folder, "--out", tmp_path / "model", *CLIP)
    with pytest.raises(UserError, match="has no decoder yet: run scripts/train_decoder.py"):
        UnCLIP.from_pretrained(tmp_path / "model")


def test_bad_input_ends_in_one_line_and_code_2(diffusers_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    cut, other = (shutil.copytree(diffusers_folder, tmp_path / name) for name in ("cut", "other"))
    (cut / "super_res_last" / f"{WEIGHTS}.safetensors").write_bytes(b"cut off")
    shutil.copytree(other / "super_res_first", other / "decoder", dirs_exist_ok=True)
    for argv in [
        ("import_weights", "karlo", "--source", tmp_path / "nowhere", "--out", tmp_path / "model"),
        ("import_weights", "karlo", "--source", tmp_path / "file", "--out", tmp_path / "model"),
        ("import_weights", "karlo", "--source", tmp_path, "--out", tmp_path / "model"),
        ("import_weights", "karlo", "--source", diffusers_folder, "--out", diffusers_folder),
        ("import_weights", "karlo", "--source", cut, "--out", tmp_path / "model", *CLIP),
        ("import_weights", "karlo", "--source", other, "--out", tmp_path / "model", *CLIP),
        ("import_weights", "prior", "--source", "no/such-repository", "--out", tmp_path / "model"),
        ("export_weights", "diffusers", "--model", tmp_path / "nowhere", "--out", tmp_path / "model"),
        ("export_weights", "diffusers", "--model", diffusers_folder / "prior", "--out", tmp_path / "model"),
    ]:
        with pytest.raises(SystemExit) as end:
            run(*argv)
        out, err = capsys.readouterr()
        assert end.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
        assert not list(tmp_path.glob("model")) and not list(tmp_path.glob(".model*"))


@pytest.mark.parametrize("there, chosen", [
    ([f"{WEIGHTS}.bin", f"{WEIGHTS}.safetensors", f"{WEIGHTS}.fp16.safetensors"], [f"{WEIGHTS}.safetensors"]),
    ([f"{WEIGHTS}.bin"], [f"{WEIGHTS}.bin"]),
    ([f"{WEIGHTS}.fp16.safetensors", "model.onnx"], [f"{WEIGHTS}.fp16.safetensors"]),
    ([f"{WEIGHTS}.safetensors.index.json", f"{WEIGHTS}-00001-of-00002.safetensors", f"{WEIGHTS}-00002-of-00002.safetensors"],
     [f"{WEIGHTS}.safetensors.index.json", f"{WEIGHTS}-00001-of-00002.safetensors", f"{WEIGHTS}-00002-of-00002.safetensors"]),
])  # fmt: skip
def test_of_a_repository_each_part_is_fetched_once(there, chosen):
    files = ["README.md", "prior/config.json", *(f"prior/{name}" for name in there), "prior/more/config.json", "vae/config.json"]
    assert set(files_of("prior", files)) == {"prior/config.json", *(f"prior/{name}" for name in chosen)}
    assert set(files_of("", ["config.json", "README.md", *there])) == {"config.json", *chosen}


def test_only_what_is_wanted_is_fetched(monkeypatch, tmp_path):
    import huggingface_hub

    wanted = {}
    files = ["prior/config.json", f"prior/{WEIGHTS}.bin", "text_encoder/model.safetensors", "model_index.json"]
    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, repo, timeout: info)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repo, allow_patterns: wanted.update({repo: allow_patterns}) or tmp_path
    )
    assert fetch("someone/karlo", ["prior", "decoder"]) == tmp_path
    assert wanted == {"someone/karlo": ["prior/config.json", f"prior/{WEIGHTS}.bin"]}


def test_what_was_fetched_before_needs_no_network(monkeypatch, tmp_path):
    import huggingface_hub

    def cached(repo, local_files_only=False, **_):
        if repo == "someone/karlo" and local_files_only:
            return tmp_path
        raise OSError("cut off")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert fetch("someone/karlo", ["prior"]) == tmp_path
    with pytest.raises(UserError, match="no folder someone/else, and it cannot be fetched .*: (?!cut off)"):
        fetch("someone/else", ["prior"])


def test_weights_in_several_files(diffusers_folder, tmp_path):
    """As large models come: an index, and a file for each share of the tensors."""
    from safetensors.torch import load_file, save_file

    at = diffusers_folder / "decoder"
    tensors = load_file(at / f"{WEIGHTS}.safetensors")
    (at / f"{WEIGHTS}.safetensors").rename(tmp_path / "whole.safetensors")
    shares = {f"{WEIGHTS}-0000{k + 1}-of-00002.safetensors": sorted(tensors)[k::2] for k in range(2)}
    for name, keys in shares.items():
        save_file({key: tensors[key] for key in keys}, at / name)
    index = {"weight_map": {key: name for name, keys in shares.items() for key in keys}}
    (at / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps(index))
    run("import_weights", "karlo", "--source", diffusers_folder, "--out", tmp_path / "model", *CLIP)
    run("export_weights", "diffusers", "--model", tmp_path / "model", "--out", tmp_path / "again")
    again = load_file(tmp_path / "again" / "decoder" / f"{WEIGHTS}.safetensors")
    assert again.keys() == tensors.keys() and all(again[key].equal(tensors[key]) for key in tensors)

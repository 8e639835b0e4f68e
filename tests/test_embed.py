import hashlib
import json
import multiprocessing
import os
import random
import signal
import threading
import time

import pytest
import torch
from conftest import TEXT_WIDTH, D
from data.pictures import captioned_tar, encoded, png, write_tar
from PIL import Image
from tqdm import tqdm

from unclip import embed_cost
from unclip.clip import FrozenCLIP
from unclip.data.caption_embeddings import read_texts, together
from unclip.data.embeddings import embeddings_file, read_embeddings, shard_embeddings
from unclip.data.images import to_float
from unclip.data.manifest import check_manifest, manifest_file
from unclip.data.shards import find_shards
from unclip.data.table import load_table
from unclip.embed import embed
from unclip.embed_cost import disk, measured_rate, picture_shapes, text_shapes
from unclip.files import new_file

FILES = "[!.]*.safetensors"  # none that is being written
SIZE = 16  # of the pictures that the tiny CLIP looks at


@pytest.fixture(scope="module")
def clip(model_files):
    return FrozenCLIP(model_files / "clip", unit_variance=True).whole()


@pytest.fixture
def folder(tmp_path):
    """Four captioned shards of five."""
    for n in range(4):
        captioned_tar(tmp_path / "data" / f"{n:05d}.tar", range(5 * n, 5 * n + 5))
    return tmp_path / "data"


@pytest.fixture
def script(run_script, model_files):
    """Run scripts/embed.py with the tiny CLIP: (exit code, stdout lines, stderr lines)."""
    usual = ("--clip", model_files / "clip", "--device", "cpu", "--unit-variance")
    return lambda *argv: run_script("embed", *usual, *argv)


def digests(folder, pattern=FILES):
    """The files that are there, and what is in them."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob(pattern)}


def test_embeddings_are_those_of_the_pictures_and_their_mirror_images(script, folder, clip):
    code, out, err = script("--data", folder, "--workers", 2)
    assert code == 0 and any("4 of 4 shards" in line for line in err)
    assert out[-1] == f"wrote {manifest_file(folder, clip.image_fingerprint())}"
    table = load_table(folder, "train", SIZE)
    pixels = to_float(table.images)
    found = [read_embeddings(shard, clip.image_fingerprint())[key] for shard, key in zip(table.shards, table.keys)]
    expected = torch.stack([clip.encode_image(view) for view in (pixels, pixels.flip(-1))], dim=1)
    torch.testing.assert_close(torch.stack(found).float(), expected, atol=4e-3, rtol=1e-3)
    check_manifest(folder, clip)


def test_a_training_would_make_the_same_files(script, folder, clip):
    script("--data", folder)
    files = digests(folder)
    for shard in find_shards(folder, "train"):
        embeddings_file(shard, clip.image_fingerprint()).unlink()
        shard_embeddings(shard, clip, clip.image_fingerprint())
    assert digests(folder) == files and len(files) == 4


def test_captions_too(script, folder, clip):
    assert script("--data", folder, "--texts")[0] == 0
    for n, shard in enumerate(find_shards(folder, "train")):
        texts = read_texts(shard, clip.fingerprint())
        expected = clip.encode_text([f"picture {k}" for k in range(5 * n, 5 * n + 5)])
        torch.testing.assert_close(together(list(texts))["text_embed"], expected.embed, atol=4e-3, rtol=1e-3)
        assert list(read_embeddings(shard, clip.image_fingerprint())) == texts.keys
    manifests = [json.loads(path.read_text()) for path in folder.glob("embeddings.*.json")]
    assert {(m["shards"], m.get("pictures"), m.get("captions")) for m in manifests} == {(4, 20, None), (4, None, 20)}


def test_a_second_run_computes_what_is_missing_alone(script, folder, clip, monkeypatch):
    script("--data", folder)
    files, seen = digests(folder), []
    file = embeddings_file(folder / "00002.tar", clip.image_fingerprint())
    file.write_bytes(file.read_bytes()[:-7])
    encode = FrozenCLIP.encode_image
    monkeypatch.setattr(FrozenCLIP, "encode_image", lambda self, images: seen.append(len(images)) or encode(self, images))
    code, out, _ = script("--data", folder)
    assert code == 0 and out[0] == "3 of 4 shards are embedded already; float32 on cpu"
    assert seen == [5, 5] and digests(folder) == files  # both views of one shard
    script("--data", folder, "--texts")
    assert script("--data", folder, "--texts", "--workers", "2")[0] == 0
    assert seen == [5, 5]


def test_in_bfloat16_they_point_the_same_way_and_have_the_same_name(script, folder, clip):
    assert script("--data", folder, "--dtype", "bfloat16")[0] == 0
    low = read_embeddings(folder / "00001.tar", clip.image_fingerprint()).image_embed.float()
    pixels = to_float(load_table(folder, "train", SIZE).images[5:10])
    assert (torch.cosine_similarity(low[:, 0], clip.encode_image(pixels)) > 0.999).all()
    assert json.loads(manifest_file(folder, clip.image_fingerprint()).read_text())["computed_in"] == ["bfloat16"]


def test_without_unit_variance_as_configs_have_it(run_script, folder, model_files):
    raw = FrozenCLIP(model_files / "clip").whole()
    assert run_script("embed", "--clip", model_files / "clip", "--device", "cpu", "--data", folder)[0] == 0
    pixels = to_float(load_table(folder, "train", SIZE).images[:5])
    found = read_embeddings(folder / "00000.tar", raw.image_fingerprint()).image_embed[:, 0].float()
    torch.testing.assert_close(found, raw.encode_image(pixels), atol=2e-3, rtol=1e-3)
    check_manifest(folder, raw)


def test_one_split_or_all(script, tmp_path, clip):
    train, test = (captioned_tar(tmp_path / split / "0.tar", range(3)) for split in ("train", "test"))
    assert script("--data", tmp_path, "--split", "test")[0] == 0
    found = [read_embeddings(shard, clip.image_fingerprint()) for shard in (train, test)]
    assert found[0] is None and len(found[1]) == 3
    manifest = manifest_file(tmp_path, clip.image_fingerprint())
    assert list(json.loads(manifest.read_text())["files"]) == ["test/0.tar"]
    script("--data", tmp_path)
    assert list(json.loads(manifest.read_text())["files"]) == ["test/0.tar", "train/0.tar"]


def test_bad_samples_are_counted(script, tmp_path):
    for n in range(2):
        write_tar(tmp_path / f"{n}.tar", [("a.png", b"broken"), ("a.txt", b"x"), ("b.png", png(9)), ("b.txt", b"y")])
    _, out, _ = script("--data", tmp_path)
    assert any(line.startswith("skipped 2 corrupt sample(s) or shard end(s): 2 ") and "a in 0.tar" in line for line in out)


@pytest.mark.parametrize("argv, says", [
    (["--data", "nowhere"], "no data folder nowhere"),
    ([], "no --data: name a folder of shards"),
    (["--data", "DATA", "--split", "valid", "--labelled"], "DATA has no split 'valid'"),
    (["--data", "DATA", "--texts", "--labelled"], "DATA has labels, whose captions are made while training"),
    (["--data", "DATA", "--workers", "-1"], "--workers is -1: give 0 or more"),
    (["--data", "DATA", "--clip", "nothing"], "no CLIP 'nothing'"),
    (["--data", "DATA", "--device", "gpu"], "no device 'gpu' on this machine"),
    (["--data", "DATA", "--pairs", "5"], "--pairs is of --dry-run: add that, or leave it out"),
    (["--data", "DATA", "--price", "0"], "--price is of --dry-run"),
    (["--dry-run"], "how many pictures? give --pairs N, or --data DIR"),
    (["--dry-run", "--pairs", "0"], "--pairs is 0.0: give a number above 0"),
    (["--dry-run", "--pairs", "inf"], "--pairs is inf"), (["--dry-run", "--pairs", "nan"], "--pairs is nan"),
    (["--dry-run", "--pairs", "9", "--gpus", "0"], "--gpus is 0"),
    (["--dry-run", "--pairs", "9", "--rate", "-3"], "--rate is -3.0"),
])  # fmt: skip
def test_bad_input_ends_in_one_line(script, folder, argv, says):
    if "--labelled" in argv:
        (folder / "classnames.txt").write_text("dog\n")
        (folder / "train").mkdir()
        for shard in folder.glob("*.tar"):
            shard.rename(folder / "train" / shard.name)
    code, out, err = script(*(str(folder) if a == "DATA" else a for a in argv if a != "--labelled"))
    assert code == 2 and out == [] and len(err) == 1
    assert err[0].startswith("error: " + says.replace("DATA", str(folder)))
    assert not list(folder.rglob("*.safetensors"))


def start(model_files, folder, texts=False, **environment):
    """scripts/embed.py's work in a process of its own, which the caller ends."""

    def work():
        tqdm.set_lock(threading.RLock())  # its own: a fork has its parent's, and SIGKILL leaves that locked
        os.environ.update(environment)
        embed(
            data=folder, clip_name=model_files / "clip", pretrained=None, unit_variance=True, split=None, texts=texts,
            workers=1, device="cpu", dtype="float32",
        )  # fmt: skip

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def heavy(folder, shards=12):
    """Shards of noise, which takes a while to decode."""
    noise = Image.frombytes("RGB", (500, 500), random.Random(0).randbytes(500 * 500 * 3))
    picture = encoded(noise, "PNG", compress_level=1)
    for n in range(shards):
        write_tar(folder / f"{n}.tar", [(f"{n}{k}.{e}", c) for k in range(4) for e, c in (("png", picture), ("txt", b"x"))])
    return folder


def test_killed_in_the_middle_and_run_again(model_files, tmp_path, script):
    """What was finished is kept, and in the end there is what there would have been."""
    folder, whole = heavy(tmp_path / "cut"), heavy(tmp_path / "whole")
    process = start(model_files, folder)
    while len(digests(folder)) < 2 and process.is_alive():
        time.sleep(0.002)
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in folder.glob(FILES)}
    assert 2 <= len(before) < 12 and not list(folder.glob("*.json"))
    assert script("--data", folder, "--dtype", "float32")[0] == script("--data", whole, "--dtype", "float32")[0] == 0
    assert digests(folder) == digests(whole)
    assert digests(folder, "*.json") == digests(whole, "*.json")
    assert all(path.stat().st_mtime_ns == moment for path, moment in before.items())


def test_what_a_killed_run_has_half_written_is_removed_by_the_process_whose_shard_it_is(model_files, tmp_path, clip):
    """Of two processes the second has the second and the fourth shard; another folder has files of the same name."""
    data, left = tmp_path / "data", []
    shards = [captioned_tar(data / name, range(2)) for name in ("test/0.tar", "test/1.tar", "test/2.tar", "train/0.tar")]
    files = [embeddings_file(shard, clip.image_fingerprint()) for shard in shards]
    for file in files:
        with pytest.raises(KeyboardInterrupt), new_file(file) as temporary:
            left.append(temporary)
            raise KeyboardInterrupt
        temporary.write_bytes(b"half")  # SIGKILL would not have let it be removed
    other = data / "test" / ".1.tar.part"
    other.write_bytes(b"of somebody else")
    process = start(model_files, data, WORLD_SIZE="2", RANK="1")
    process.join(60)
    assert process.exitcode == 0 and files[1].is_file() and other.is_file()
    assert [path.exists() for path in left] == [True, False, True, False]


def test_two_processes_share_the_shards(model_files, folder, script, clip, tmp_path):
    """As torchrun and `accelerate launch` start them; together they write what one would."""
    both = [start(model_files, folder, texts=True, WORLD_SIZE="2", RANK=str(rank)) for rank in range(2)]
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    together = digests(folder), digests(folder, "*.json")
    for path in [*folder.glob("*.safetensors"), *folder.glob("embeddings*.json")]:
        path.unlink()
    script("--data", folder, "--texts", "--dtype", "float32")
    assert (digests(folder), digests(folder, "*.json")) == together and len(together[0]) == 8


def test_the_disk_that_a_dry_run_tells_is_that_of_real_files(script, tmp_path, clip):
    """25 pictures in shards of ten, whose captions have as many tokens each."""
    for n, count in enumerate((10, 10, 5)):
        files = [(f"{10 * n + k:09d}.{e}", c) for k in range(count) for e, c in (("png", png(k)), ("txt", b"dog cat"))]
        write_tar(tmp_path / f"{n:05d}.tar", [*files, ("x", bytes(150_000 - 1024 * len(files)))])
    assert script("--data", tmp_path, "--texts", "--dtype", "bfloat16")[0] == 0
    files = lambda pattern: sum(path.stat().st_size for path in tmp_path.glob(pattern))  # noqa: E731
    texts, length = files("*.text.safetensors"), clip.num_tokens("dog cat")
    assert disk(25, picture_shapes(D), 10, 150_000) == files("*.safetensors") - texts
    assert disk(25, text_shapes(D, TEXT_WIDTH, length), 10, 150_000) == texts


def test_what_a_dry_run_prints(script):
    code, out, _ = script("--dry-run", "--pairs", "400e6", "--rate", "1000", "--price", "2.5", "--gpus", "8", "--texts")
    said = "\n".join(out)
    assert code == 0 and out[0] == "400,000,000 pictures and captions:"
    assert f"{4 * D + 4} bytes a picture" in said and f"{2 * TEXT_WIDTH} a token" in said
    assert "1,000 pictures a second on one GPU (--rate)" in said
    assert "111.1 hours of one GPU; 13.9 of 8" in said and "$277.78 at $2.50 an hour" in said  # 400e6 / 1000 / 3600
    assert out[-1].startswith("assumed: ") and "20 tokens" in out[-1]


@pytest.mark.parametrize("given", [True, False])
def test_a_rate_that_is_measured(script, folder, given, monkeypatch):
    """On pictures of one's own or made-up ones; nothing is left behind."""
    monkeypatch.setattr(embed_cost, "measured_rate", lambda *a: measured_rate(*a, seconds=0.05))
    before = sorted(folder.iterdir())
    code, out, _ = script("--dry-run", *(["--data", folder] if given else ["--pairs", "9"]), "--workers", "1" if given else "0")
    assert code == 0 and sorted(folder.iterdir()) == before
    assert out[0].endswith("pictures:") and (f"pictures of {folder}" if given else "made-up JPEGs") in out[2]
    assert "computer like this, on its cpu" in out[2] and "give --price" in out[4]

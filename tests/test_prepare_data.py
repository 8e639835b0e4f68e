import csv
import io
import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from unclip.data import prepare
from unclip.data.shards import find_shards, read_samples
from unclip.data.skipped import Skipped
from unclip.data.table import load_table
from unclip.errors import UserError

WNIDS = ["n02124075", "n04067472", "n07749582"]  # Egyptian cat, reel, lemon


class Lines(list):
    __call__ = list.append


def jpeg(colour, size=(64, 64), mode="RGB"):
    out = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Tiny ImageNet's layout with three classes: five training pictures each, one of them grey, and two for validation."""
    path = tmp_path_factory.mktemp("zip") / "tiny.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tiny-imagenet-200/wnids.txt", "\n".join(WNIDS))
        lines = []
        for c, wnid in enumerate(WNIDS):
            file.writestr(f"tiny-imagenet-200/train/{wnid}/{wnid}_boxes.txt", "")
            for n in range(5):
                name = f"tiny-imagenet-200/train/{wnid}/images/{wnid}_{n}.JPEG"
                file.writestr(name, jpeg((80 * c, 10 * n, 0), mode="L" if n == 4 else "RGB"))
            for n in range(2):
                file.writestr(f"tiny-imagenet-200/val/images/val_{2 * c + n}.JPEG", jpeg((80 * c, 200, 0)))
                lines.append(f"val_{2 * c + n}.JPEG\t{wnid}\t0\t0\t9\t9\n")
        file.writestr("tiny-imagenet-200/val/val_annotations.txt", "".join(lines))
    return path


def folder_of(path, **files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def contents(out, split):
    """{caption: sample} of a prepared split."""
    return {s["txt"].decode(): s for s in read_samples(find_shards(out, split), Skipped())}


def both(out):
    return {**contents(out, "train"), **contents(out, "test")}


def test_tiny_imagenet(archive, tmp_path):
    lines = Lines()
    prepare.tiny_imagenet(archive, tmp_path / "out", say=lines)
    assert lines == ["train: 15 pictures of 200 classes", "test: 6 pictures"]
    train, test = load_table(tmp_path / "out", "train", 64), load_table(tmp_path / "out", "test", 64)
    names = train.class_captions.names
    for table, pictures in ((train, 15), (test, 6)):
        assert len(table) == pictures == len(set(table.keys))
        for image, label in zip(table.images, table.labels):
            c = ["Egyptian cat", "reel", "lemon"].index(names[label][0])
            grey = image.float().std(dim=0).max() == 0  # converted: three equal channels
            assert grey or abs(int(image[0].float().mean()) - 80 * c) < 4
    assert sum(int(i.float().std(dim=0).max() == 0) for i in train.images) >= 3
    assert (tmp_path / "out" / "classnames.txt").read_text().splitlines() == [n[0] for n in names]
    assert "{c}" in (tmp_path / "out" / "zeroshot_classification_templates.txt").read_text()
    assert len({k.split("_")[0] for k in train.keys[:4]}) > 1  # the classes are mixed


def test_tiny_imagenets_boxes_let_readings_be_said(archive, tmp_path):
    """A red thing on the right of a green picture, which its box tells; and pictures whose boxes are missing or broken."""
    path = tmp_path / "boxes.zip"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if not name.endswith("_boxes.txt") and "val_annotations" not in name:
                new.writestr(name, old.read(name))
        image = Image.new("RGB", (64, 64), (30, 150, 40))
        image.paste((220, 20, 30), (40, 20, 60, 40))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=95)
        new.writestr(f"tiny-imagenet-200/train/{WNIDS[2]}/images/{WNIDS[2]}_9.JPEG", out.getvalue())
        new.writestr("tiny-imagenet-200/val/images/val_9.JPEG", out.getvalue())
        rows = [f"{WNIDS[2]}_9.JPEG\t40\t20\t59\t39", f"{WNIDS[2]}_0.JPEG\t9\t0\tx\t1", f"{WNIDS[2]}_1.JPEG\t9\t0\t5\t1"]
        new.writestr(f"tiny-imagenet-200/train/{WNIDS[2]}/{WNIDS[2]}_boxes.txt", "\n".join(rows))
        new.writestr("tiny-imagenet-200/val/val_annotations.txt", f"val_9.JPEG\t{WNIDS[2]}\t40\t20\t59\t39\n")
    prepare.tiny_imagenet(path, tmp_path / "out", say=Lines())
    train, test = (load_table(tmp_path / "out", split, 64) for split in ("train", "test"))
    readings = dict(zip(train.keys, train.readings))
    assert readings[f"{WNIDS[2]}_9"] == test.readings[0] == {"colour": "red", "size": "small", "place": "right"}
    assert readings[f"{WNIDS[2]}_0"] == readings[f"{WNIDS[2]}_1"] == readings[f"{WNIDS[0]}_0"] == {}
    assert {"red", "left", "close-up"} <= set(train.words())


def test_tiny_imagenet_of_some_classes(archive, tmp_path):
    (tmp_path / "few.txt").write_text(f"# two\n{WNIDS[2]}  # lemon\n\n{WNIDS[0]} # cat\n{WNIDS[2]}\n")
    prepare.tiny_imagenet(archive, tmp_path / "out", tmp_path / "few.txt", Lines())
    table = load_table(tmp_path / "out", "train", 8)
    assert [n[0] for n in table.class_captions.names] == ["lemon", "Egyptian cat"]
    assert {(k.split("_")[0], int(label)) for k, label in zip(table.keys, table.labels)} == {(WNIDS[2], 0), (WNIDS[0], 1)}


@pytest.mark.parametrize("text, message", [("n99", "'n99' is no class"), ("# none\n", "names no classes"), (None, "no file")])
def test_wrong_classes_file(archive, tmp_path, text, message):
    if text is not None:
        (tmp_path / "few.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        prepare.tiny_imagenet(archive, tmp_path / "out", tmp_path / "few.txt")


@pytest.mark.parametrize("harm", ["cut off", "no zip", "missing", "another zip"])
def test_a_zip_that_is_not_whole(archive, tmp_path, harm):
    path = tmp_path / "tiny.zip"
    if harm == "cut off":
        path.write_bytes(archive.read_bytes()[:-500])
    elif harm == "no zip":
        path.write_bytes(b"hello")
    elif harm == "another zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x", "y")
    with pytest.raises(UserError, match="not a whole Tiny ImageNet zip"):
        prepare.tiny_imagenet(path, tmp_path / "out")


def test_a_damaged_member_is_skipped_and_what_was_prepared_stays_until_all_is_written(archive, tmp_path, monkeypatch):
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        info = file.getinfo(f"tiny-imagenet-200/train/{WNIDS[0]}/images/{WNIDS[0]}_1.JPEG")
    content[info.header_offset + 200] ^= 255
    (tmp_path / "tiny.zip").write_bytes(content)
    lines = Lines()
    prepare.tiny_imagenet(tmp_path / "tiny.zip", tmp_path / "out", say=lines)
    assert lines[0].startswith("train: 14") and lines[-1].startswith("skipped 1")

    def interrupted(*args):
        raise KeyboardInterrupt

    before = sorted(os.listdir(tmp_path / "out"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare.ClassCaptions, "save", interrupted)
        prepare.tiny_imagenet(archive, tmp_path / "out", say=Lines())
    assert len(load_table(tmp_path / "out", "train", 8)) == 14 and sorted(os.listdir(tmp_path / "out")) == before
    prepare.tiny_imagenet(archive, tmp_path / "out", say=Lines())
    assert len(load_table(tmp_path / "out", "train", 8)) == 15 and sorted(os.listdir(tmp_path / "out")) == before


def test_no_way_to_the_download(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "TINY_IMAGENET_URL", "http://127.0.0.1:9/tiny-imagenet-200.zip")
    with pytest.raises(UserError, match="cannot download .* give it as --source"):
        prepare.tiny_imagenet(None, tmp_path / "out", say=Lines())
    assert not list(tmp_path.rglob("*.zip"))


def test_a_download_that_ends_early_leaves_nothing(tmp_path):
    import http.server
    import threading

    class Short(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Short)
    threading.Thread(target=server.handle_request, daemon=True).start()
    with pytest.raises(UserError, match="cannot download"):
        prepare.download(f"http://127.0.0.1:{server.server_port}/a.zip", tmp_path / "a.zip", Lines())
    server.server_close()
    assert os.listdir(tmp_path) == []


def test_folder_with_text_files_and_subfolders(tmp_path):
    source = folder_of(tmp_path / "in", **{
        "b.jpg": jpeg("red"), "b.txt": "a red square\n a second caption \n", "sub/c.PNG": jpeg("lime"), "sub/c.txt": "green",
        "d.jpg": jpeg("blue"), "e.jpg": b"no picture", "e.txt": "broken", "f.jpg": jpeg("blue"), "f.txt": "  \n",
        "g.jpg": jpeg("blue"), "g.txt": b"\xff\xfe\xfd",
    })  # fmt: skip
    lines = Lines()
    prepare.image_folder(source, tmp_path / "out", say=lines)
    assert set(both(tmp_path / "out")) == {"a red square\na second caption", "green"}
    assert lines[0].startswith("skipped 4 corrupt sample(s)") and "no caption: d.txt is missing" in lines[0]
    assert lines[1:] == ["train: 1 pictures", "test: 1 pictures"]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_folder_with_metadata(tmp_path, form):
    rows = [("a.jpg", "a dog"), ("sub/b.jpg", 'say "hi",\nand go'), ("a.jpg", "a hound"), ("gone.jpg", "x"), ("c.jpg", "")]
    if form == "jsonl":
        text = "\n".join(json.dumps({"file_name": f, "text": t}) for f, t in rows)
    else:
        out = io.StringIO()
        csv.writer(out).writerows([("file_name", "caption"), *rows])
        text = "\ufeff" + out.getvalue()
    files = {"a.jpg": jpeg("red"), "sub/b.jpg": jpeg("lime"), "c.jpg": jpeg("blue"), "loose.jpg": jpeg("blue")}
    lines = Lines()
    prepare.image_folder(folder_of(tmp_path / "in", **files, **{f"metadata.{form}": text}), tmp_path / "out", say=lines)
    assert set(both(tmp_path / "out")) == {"a dog\na hound", 'say "hi", and go'}
    assert lines[0].startswith("skipped 2 corrupt")


@pytest.mark.parametrize("metadata, message", [
    ('{"file_name": "../secret.jpg", "text": "x"}', "outside"), ('{"file_name": "/etc/x.jpg", "text": "x"}', "outside"),
    ('{"text": "x"}', "needs the columns file_name and text"), ("{", "line 1: not JSON"), ("[1]", "not a JSON object"),
    ("", "is empty"), (b"\xff\xfe\xfd", "not UTF-8"),
])  # fmt: skip
def test_wrong_metadata(tmp_path, metadata, message):
    folder_of(tmp_path, **{"secret.jpg": jpeg("red"), "in/metadata.jsonl": metadata, "in/a.jpg": jpeg("red")})
    with pytest.raises(UserError, match=message):
        prepare.image_folder(tmp_path / "in", tmp_path / "out", say=Lines())


@pytest.mark.parametrize("files, message", [
    ({}, "no images"), ({"a.jpg": b"x"}, "no captions"), ({"a.jpg": b"x", "a.txt": "x"}, "no readable pictures"),
])  # fmt: skip
def test_folder_without_anything_of_use(tmp_path, files, message):
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match=message):
        prepare.image_folder(folder_of(tmp_path / "in", **files), tmp_path / "out", say=Lines())
    assert not (tmp_path / "out" / "train").exists()
    with pytest.raises(UserError, match="no folder"):
        prepare.image_folder(tmp_path / "none", tmp_path / "out")


def test_every_twentieth_picture_is_held_out(tmp_path):
    files = {f"{n:02d}.{e}": c for n in range(45) for e, c in (("png", jpeg("red", (4, 4))), ("txt", f"number {n}"))}
    prepare.image_folder(folder_of(tmp_path / "in", **files), tmp_path / "out", 0.05, say=Lines())
    test = set(contents(tmp_path / "out", "test"))
    assert test == {"number 0", "number 20", "number 40"}
    assert set(contents(tmp_path / "out", "train")) == {f"number {n}" for n in range(45)} - test


def test_one_picture_is_both_split(tmp_path):
    prepare.image_folder(folder_of(tmp_path / "in", **{"a.png": jpeg("red"), "a.txt": "x"}), tmp_path / "out", say=Lines())
    assert set(contents(tmp_path / "out", "train")) == set(contents(tmp_path / "out", "test")) == {"x"}


def test_pictures_are_shrunk_turned_and_otherwise_left_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    turned = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(turned, "JPEG", exif=exif)
    small = jpeg("lime", (30, 20))
    source = folder_of(tmp_path / "in", **{"a.jpg": turned.getvalue(), "a.txt": "a", "b.jpg": small, "b.txt": "b",
                                          "c.jpg": jpeg("blue", (90, 60)), "c.txt": "c"})  # fmt: skip
    prepare.image_folder(source, tmp_path / "out", size=30, say=Lines())
    found = both(tmp_path / "out")
    assert Image.open(io.BytesIO(found["a"]["jpg"])).size == (20, 40)
    assert found["b"]["jpg"] == small
    assert Image.open(io.BytesIO(found["c"]["jpg"])).size == (45, 30)


def test_foreign_folders_are_not_replaced(tmp_path):
    source = folder_of(tmp_path / "in", **{"train/a.jpg": jpeg("red"), "train/a.txt": "x", "b.jpg": jpeg("red"), "b.txt": "y"})
    with pytest.raises(UserError, match="holds something else than shards"):
        prepare.image_folder(source, source, say=Lines())
    assert (source / "train" / "a.jpg").is_file()
    folder_of(tmp_path / "labelled", **{"classnames.txt": "dog\n"})
    with pytest.raises(UserError, match="labelled"):
        prepare.image_folder(source, tmp_path / "labelled", say=Lines())


@pytest.mark.parametrize("options", [{"val_share": 0}, {"val_share": 1}, {"size": 0}])
def test_options_out_of_range(tmp_path, options):
    with pytest.raises(UserError, match="choose"):
        prepare.image_folder(tmp_path, tmp_path / "out", **options)


def test_the_script_says_what_is_wrong_in_one_line(run_script, tmp_path):
    answer = run_script("prepare_data", "folder", tmp_path / "none", "--out", tmp_path / "out")
    assert answer == (2, [], [f"error: no folder {tmp_path / 'none'}: name one with pictures and their captions"])


def test_grey_pictures_become_rgb(tmp_path):
    source = folder_of(tmp_path / "in", **{"a.jpg": jpeg("red", mode="L"), "a.txt": "a"})
    prepare.image_folder(source, tmp_path / "out", say=Lines())
    pixels = np.array(Image.open(io.BytesIO(both(tmp_path / "out")["a"]["jpg"])))
    assert pixels.shape == (64, 64, 3) and np.ptp(pixels.astype(int), axis=-1).max() <= 2

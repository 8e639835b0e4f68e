"""Zero-shot classification against slow loops, its picture, and its script from the command line."""

import io
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.clip import FrozenCLIP, TextEncoding
from unclip.data.shards import write_shards
from unclip.errors import UserError
from unclip.evaluation.confusion import confusion_image
from unclip.evaluation import zero_shot
from unclip.evaluation.outputs import output_file
from unclip.evaluation.zero_shot import class_names, labelled_batches, read_image, templates_of
from unclip.openclip.building import build_clip, save_clip
from unclip.openclip.library import import_open_clip
from unclip.zero_shot import TEMPLATES as DEFAULT_TEMPLATES
from unclip.zero_shot import Scores, ZeroShotClassifier, fill

REPO = Path(__file__).resolve().parents[1]
CIFAR = REPO.parent / "shared" / "data" / "cifar10-test"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1},
}
TEMPLATES = ["a photo of {a}.", "the {c}", "{}, drawn"]


class TableCLIP:
    """A CLIP whose embeddings are looked up: a text is a row, an image is its own embedding."""

    device, embed_dim = torch.device("cpu"), 4

    def __init__(self, texts=None):
        self.texts = texts or {}

    def encode_text(self, captions):
        return TextEncoding(torch.stack([self.texts[c] for c in captions]), None, None)

    def encode_image(self, images):
        return images

    def logit_scale(self):
        return 20.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip") / "clip"
    save_clip(build_clip(CONFIG).state_dict(), CONFIG, ((0.5,) * 3, (0.5,) * 3), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three classes, 11 pictures of which one is broken."""
    path = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def samples():
        for k in range(11):
            file = io.BytesIO()
            Image.fromarray(rng.integers(256, size=(40, 36, 3), dtype=np.uint8)).save(file, "PNG")
            content = b"not a picture" if k == 4 else file.getvalue()
            yield {"__key__": f"s{k}", "png": content, "cls": str(k % 3).encode()}

    write_shards(samples(), path / "test", 6)
    (path / "classnames.txt").write_text("dog\nox\nschool bus\n")
    (path / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na {c}")
    return path


def test_fill():
    assert fill("a photo of {a}.", "ox") == "a photo of an ox."
    assert fill("{a}", "sunglasses", ["sunglasses"]) == "sunglasses"
    assert fill("the {c} or {}", "dog") == "the dog or dog"
    with pytest.raises(UserError, match="has no place for the name"):
        fill("a photo", "dog")


def test_class_weights_and_logits_equal_a_slow_loop(folder):
    clip = FrozenCLIP(folder)
    names = [["dog", "hound"], ["ox"], ["school bus"]]
    classifier = ZeroShotClassifier(clip, names, TEMPLATES, batch_size=4)
    assert classifier.names == ["dog", "ox", "school bus"]
    images = torch.rand(5, 3, 32, 32) * 2 - 1
    logits = classifier.logits(images)
    for c, group in enumerate(names):
        embeds = [clip.encode_text([fill(t, n)]).embed[0] for n in group for t in TEMPLATES]
        weight = sum(e / e.norm() for e in embeds) / len(embeds)
        weight = weight / weight.norm()
        torch.testing.assert_close(classifier.weights[c], weight)
        for b in range(5):
            image = clip.encode_image(images[b : b + 1])[0]
            expected = clip.logit_scale() * (image @ weight) / image.norm()
            torch.testing.assert_close(logits[b, c], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(classifier.probabilities(images), logits.softmax(dim=1))


def test_class_weights_equal_those_of_open_clip(folder):
    open_clip = import_open_clip()
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    templates = ["a photo of a {}.", "the {}"]
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    expected = open_clip.build_zero_shot_classifier(model, tokenizer, ["dog", "ox"], templates)
    weights = ZeroShotClassifier(FrozenCLIP(folder), ["dog", "ox"], templates).weights
    torch.testing.assert_close(weights, expected.T)


def test_the_length_of_a_prompts_embedding_does_not_matter():
    """The mean is over unit vectors: a long embedding has no greater say."""
    one, two = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 1.0, 0, 0])
    clip = TableCLIP({"a ox": 100 * one, "b ox": two})
    weights = ZeroShotClassifier(clip, ["ox"], ["a {}", "b {}"]).weights
    torch.testing.assert_close(weights[0], (one + two) / math.sqrt(2))


def scored(classes, count, seed=0):
    """A classifier of random class weights, random embeddings and labels: (scores, logits, labels)."""
    generator = torch.Generator().manual_seed(seed)
    texts = {f"{k}": torch.randn(4, generator=generator) for k in range(classes)}
    classifier = ZeroShotClassifier(TableCLIP(texts), list(texts), ["{}"])
    images = torch.randn(count, 4, generator=generator)
    labels = torch.randint(max(1, classes - 1), (count,), generator=generator)  # the last class has no picture
    batches = [(images[k : k + 7], labels[k : k + 7]) for k in range(0, count, 7)]
    return classifier.evaluate(batches), classifier.logits(images), labels


@pytest.mark.parametrize("classes", [3, 9])
def test_figures_equal_a_slow_count(classes):
    scores, logits, labels = scored(classes, 60)
    confusion, top1, top5 = np.zeros((classes, classes), dtype=int), 0, 0
    for row, label in zip(logits.tolist(), labels.tolist()):
        ranked = sorted(range(classes), key=lambda c: -row[c])
        confusion[label, ranked[0]] += 1
        top1 += ranked[0] == label
        top5 += label in ranked[:5]
    assert scores.confusion.tolist() == confusion.tolist()
    assert scores.num_images == 60
    assert scores.top1 == pytest.approx(top1 / 60) and scores.top5 == pytest.approx(top5 / 60)
    recalls = [confusion[k, k] / confusion[k].sum() for k in range(classes) if confusion[k].sum()]
    assert len(recalls) == classes - 1
    assert scores.mean_per_class == pytest.approx(sum(recalls) / len(recalls))


def test_mean_per_class_weighs_classes_alike():
    """9 of 10 dogs and 0 of 1 ox: top-1 is 9/11, the mean per class 45%; a class without pictures does not count."""
    scores = Scores(["dog", "ox", "bus"], torch.tensor([[9, 1, 0], [1, 0, 0], [0, 0, 0]]), in_top5=11)
    assert scores.top1 == pytest.approx(9 / 11) and scores.mean_per_class == pytest.approx(0.45)
    summary = scores.summary()
    assert [c["name"] for c in summary["classes"]] == ["dog", "ox"] and summary["top5"] == 1
    json.dumps(summary)


def test_refusals_of_the_classifier():
    clip = TableCLIP({"ox": torch.ones(4)})
    for names, templates in (([], ["{}"]), (["ox"], []), (["ox", " "], ["{}"]), ([[]], ["{}"]), (["ox"], ["photo"])):
        with pytest.raises(UserError):
            ZeroShotClassifier(clip, names, templates)
    classifier = ZeroShotClassifier(clip, ["ox"], ["{}"])
    with pytest.raises(UserError, match="label 3, but there are 1 class names"):
        classifier.evaluate([(torch.ones(2, 4), [0, 3])])
    with pytest.raises(UserError, match="no pictures"):
        classifier.evaluate([])


def test_a_file_names_the_classes_of_data_that_has_no_names(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("ox\nbus\n")
    assert class_names(tmp_path, names) == ["ox", "bus"]
    with pytest.raises(UserError, match="name such a file with --classnames"):
        class_names(tmp_path)


def test_batches_skip_and_count_what_is_broken(data):
    from unclip.data.skipped import Skipped

    skipped = Skipped()
    batches = list(labelled_batches(data, "test", 32, 4, None, skipped))
    assert [len(labels) for _, labels in batches] == [4, 4, 2] and skipped.count == 1
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 2, 0, 2, 0, 1, 2, 0, 1]
    assert all(images.shape[1:] == (3, 32, 32) and images.min() >= -1 and images.max() <= 1 for images, _ in batches)
    assert sum(len(labels) for _, labels in labelled_batches(data, "test", 32, 4, 5, Skipped())) == 5


def test_pictures_are_squashed_where_the_clip_was_trained_so(folder, data, tmp_path, monkeypatch, run_script):
    from unclip.data.shards import find_shards, image_bytes, read_samples
    from unclip.data.skipped import Skipped

    squashing = tmp_path / "squashing"
    shutil.copytree(folder, squashing)
    config = json.loads((squashing / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = "squash"
    (squashing / "open_clip_config.json").write_text(json.dumps(config))
    sample = next(iter(read_samples(find_shards(data, "test"), Skipped())))
    whole = Image.open(io.BytesIO(image_bytes(sample)))  # 36 by 40
    expected = torch.from_numpy(np.array(whole.resize((32, 32), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    seen = []

    def spy(*args):
        for images, labels in labelled_batches(*args):
            seen.append(((images[0] + 1) * 127.5).round().to(torch.uint8))
            yield images, labels

    monkeypatch.setattr(zero_shot, "labelled_batches", spy)
    for clip in (squashing, folder):
        code, _, err = run_script("eval_zero_shot", "--model", clip, "--data", data, "--device", "cpu")
        assert code == 0, err
    assert len(seen) == 2
    assert torch.equal(seen[0], expected) and not torch.equal(seen[1], expected)


def test_default_templates_give_names_their_article(tmp_path):
    assert templates_of(tmp_path) == list(DEFAULT_TEMPLATES)
    prompts = [fill(template, "elephant") for template in DEFAULT_TEMPLATES]
    assert "a photo of an elephant." in prompts and len(set(prompts)) == len(prompts)
    assert not any("a elephant" in prompt for prompt in prompts)


def test_output_files(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert output_file(None, "--json") is None
    assert output_file(str(file), "--json") == file  # to be replaced
    assert output_file(tmp_path / "new" / "deep" / "x.json", "--json").name == "x.json"
    assert not (tmp_path / "new").exists()
    for path, says in ((tmp_path, "is a folder: name a file"), (file / "x.json", "is a file, and holds no other")):
        with pytest.raises(UserError, match=f"^--json {path}.* {says}"):
            output_file(path, "--json")



@pytest.mark.parametrize("classes, cell", [(3, 40), (50, 20), (200, 13)])
def test_confusion_picture(classes, cell):
    """The shade of a cell is its share of its row; rows are what is shown, columns what it was called."""
    confusion = torch.zeros(classes, classes, dtype=torch.long)
    confusion[0, 1], confusion[2, 2], confusion[2, 0] = 7, 1, 3
    picture = np.asarray(confusion_image(confusion, [f"class {k}" for k in range(classes)])).astype(int)
    # cells start where the white of the titles and names ends: at the grey frame
    origin = picture.shape[0] - 10 - classes * cell
    corner = lambda row, column: picture[origin + row * cell + 1, origin + column * cell + 1]  # noqa: E731
    dark, white = [8, 48, 107], [255, 255, 255]
    assert corner(0, 1).tolist() == dark and corner(1, 0).tolist() == white and corner(1, 1).tolist() == white
    for column, share in ((2, 0.25), (0, 0.75)):
        expected = [w + share * (d - w) for w, d in zip(white, dark)]
        assert np.abs(corner(2, column) - expected).max() <= 1
    names = picture[origin : origin + classes * cell, :origin]
    for k in range(0, classes, 17):  # every row has its name beside it
        assert names[k * cell : (k + 1) * cell].min() < 100


def test_read_image_turns_photographs_upright(tmp_path):
    image = Image.new("RGB", (4, 2))
    exif = image.getexif()
    exif[274] = 6  # the camera was held sideways
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (2, 4)


def script(*arguments):
    return subprocess.run(
        [sys.executable, "scripts/eval_zero_shot.py", "--device", "cpu", *map(str, arguments)],
        cwd=REPO, capture_output=True, text=True,
    )  # fmt: skip


def test_script_on_a_data_folder(folder, data, tmp_path):
    out = script("--model", folder, "--data", data, "--json", tmp_path / "s.json", "--confusion", tmp_path / "c.png")
    assert out.returncode == 0, out.stderr
    assert "top-1" in out.stdout and "skipped 1 corrupt" in out.stdout
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["num_images"] == 10 and report["skipped"] == 1 and report["top5"] == 1
    clip = FrozenCLIP(folder)
    classifier = ZeroShotClassifier(clip, ["dog", "ox", "school bus"], ["a photo of a {c}.", "a {c}"])
    from unclip.data.skipped import Skipped

    assert report["top1"] == classifier.evaluate(labelled_batches(data, "test", 32, 3, None, Skipped())).top1
    assert Image.open(tmp_path / "c.png").format == "PNG"


def test_script_on_single_pictures(folder, tmp_path):
    for name, colour in (("red.png", "red"), ("blue.jpg", "blue")):
        Image.new("RGB", (50, 40), colour).save(tmp_path / name)
    pictures = [tmp_path / "red.png", tmp_path / "blue.jpg"]
    out = script("--model", folder, "--image", *pictures, "--classes", "dog", "school bus")
    assert out.returncode == 0, out.stderr
    lines = out.stdout.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"{pictures[0]}: ")
    for line in lines:
        assert "dog" in line and "school bus" in line
        shares = [float(word.strip("%,")) for word in line.split() if word.strip(",").endswith("%")]
        assert sum(shares) == pytest.approx(100, abs=0.11) and shares == sorted(shares, reverse=True)


def test_bad_input_ends_in_one_line(folder, data, tmp_path, capsys, monkeypatch):
    """Run in this process: a new one takes seconds each time."""
    monkeypatch.syspath_prepend(REPO / "scripts")
    import eval_zero_shot

    from unclip import cli

    picture, text, empty = tmp_path / "a.png", tmp_path / "text.txt", tmp_path / "empty.txt"
    Image.new("RGB", (40, 40)).save(picture)
    cut = tmp_path / "cut.png"
    Image.effect_noise((99, 99), 80).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    text.write_text("one name\nanother\n")
    empty.write_text("\n")
    few = tmp_path / "few"
    few.mkdir()
    (few / "test").symlink_to(data / "test")
    (few / "classnames.txt").write_text("dog\nox\n")
    on_data = ["--model", folder, "--data", data]
    on_image = ["--model", folder, "--image", picture]
    for says, arguments in [
        ("give either --data DIR, or --image FILE", []),
        ("give either --data DIR, or --image FILE", [*on_data, "--image", picture]),
        ("--image needs the classes", on_image),
        ("--json goes with --data", [*on_image, "--classes", "dog", "--json", tmp_path / "s.json"]),
        ("--confusion goes with --data", [*on_image, "--classes", "dog", "--confusion", tmp_path / "c.png"]),
        ("--split goes with --data", [*on_image, "--classes", "dog", "--split", "train"]),
        ("--classnames goes with --data", [*on_image, "--classes", "dog", "--classnames", text]),
        ("--max-images goes with --data", [*on_image, "--classes", "dog", "--max-images", "3"]),
        ("--batch-size goes with --data", [*on_image, "--classes", "dog", "--batch-size", "3"]),
        ("is a folder: name a file", ["--model", tmp_path / "no", "--data", data, "--json", tmp_path]),
        ("is a folder: name a file", ["--model", tmp_path / "no", "--data", data, "--confusion", tmp_path]),
        ("is a file, and holds no other", ["--model", tmp_path / "no", "--data", data, "--json", text / "x.json"]),
        ("--classes goes with --image", [*on_data, "--classes", "dog"]),
        ("no data folder", ["--model", folder, "--data", tmp_path / "no"]),
        ("has no split 'train': it has test", [*on_data, "--split", "train"]),
        ("it lacks classnames.txt", ["--model", folder, "--data", data / "test"]),
        ("2 class names, but the data has 3", [*on_data, "--classnames", text]),
        ("label 2, but there are 2 class names", ["--model", folder, "--data", few]),
        ("no place for the name", [*on_data, "--templates", text]),
        ("no templates in", [*on_data, "--templates", empty]),
        ("no file", [*on_data, "--templates", tmp_path / "no.txt"]),
        ("must be at least 1", [*on_data, "--batch-size", "0"]),
        ("no device 'gpu'", [*on_data, "--device", "gpu"]),
        ("no model folder", ["--model", tmp_path / "no", "--data", data]),
        ("lacks open_clip_config.json", ["--model", few, "--data", data]),
        ("no weights named; its tags are", ["--model", "ViT-B-32", "--data", data]),
        ("no picture file", ["--model", folder, "--image", tmp_path / "no.png", "--classes", "dog"]),
        ("cannot read the picture", ["--model", folder, "--image", text, "--classes", "dog"]),
        ("cannot read the picture", ["--model", folder, "--image", cut, "--classes", "dog"]),
        ("none of them empty", [*on_image, "--classes", "dog", ""]),
    ]:
        with pytest.raises(SystemExit) as end:
            cli.run(lambda: eval_zero_shot.main([str(a) for a in arguments]))
        lines = capsys.readouterr().err.rpartition("\r")[2].strip().splitlines()
        assert end.value.code == 2 and says in lines[-1] and lines[-1].startswith("error: "), (says, lines)
        assert len(lines) == 1, lines


def test_reads_cifar_in_the_layout_of_clip_benchmark(folder):
    if not CIFAR.is_dir():
        pytest.skip(f"CIFAR-10's test set is not beside the repository ({CIFAR})")
    out = script("--model", folder, "--data", CIFAR, "--max-images", 24)
    assert out.returncode == 0, out.stderr
    assert "10 classes, 10 templates" in out.stdout and "images          24" in out.stdout

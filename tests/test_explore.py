from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unclip.pipeline import UnCLIP


@pytest.fixture
def folder(tmp_path):
    """Six pictures and a text."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(6):
        colours = np.random.default_rng(k).integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((20, 30), Image.Resampling.BICUBIC).save(folder / f"{k}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def explore(run_script, model_files, tmp_path):
    def run(command, *argv):
        return run_script("explore", command, *argv, "--model", model_files, "--out", tmp_path / "out", "--device", "cpu")

    return run


def test_the_nearest_to_a_picture_is_itself_and_the_others_follow_by_cosine(explore, folder, model_files):
    code, out, _ = explore("neighbours", folder / "4.png", "--pictures", folder, "--count", "6")
    assert code == 0 and out[0].split() == ["1.000", str(folder / "4.png")]
    found = [Path(line.split()[1]) for line in out[:-1]]
    embeds = UnCLIP.from_pretrained(model_files).look([Image.open(folder / f"{k}.png") for k in range(6)])
    order = [folder / f"{k}.png" for k in np.argsort(-(embeds @ embeds[4]).numpy())]  # all of one length
    assert found == order
    assert Image.open(out[-1]).size == (6 * 128 + 5 * 2, 128)


def test_neighbours_of_a_prompt(explore, folder):
    code, out, err = explore("neighbours", "a brigde", "--pictures", folder, "--count", "2")
    assert code == 0 and len(out) == 3 and any("never saw 'brigde'" in line for line in err)


def test_components_from_one_to_all(explore, folder):
    code, out, _ = explore("components", folder / "0.png", "--pictures", folder)
    assert code == 0 and out[0] == "from left to right: 1, 2, 4, 5 components, the picture itself"
    assert Image.open(out[1]).width == 5 * 128 + 4 * 2


def test_the_spread_of_named_seeds(explore):
    code, out, _ = explore("spread", "a dog", "--seed", "3,17")
    assert code == 0 and "n=2" in out[0]


def test_the_spread_of_a_prompt(explore):
    code, out, _ = explore("spread", "a dog", "--num-images", "3")
    assert code == 0 and "n=3" in out[0] and "of 16" in out[1]
    assert Image.open(out[2]).size == (3 * 128 + 2 * 2, 2 * 128 + 2)


@pytest.mark.parametrize("argv, says", [
    (["neighbours", "a dog", "--pictures", "missing"], "no folder missing"),
    (["neighbours", "a dog", "--pictures", "{empty}"], "no pictures in"),
    (["neighbours", "a dog", "--pictures", "{folder}", "--count", "0"], "--count 0"),
    (["neighbours", "missing.png", "--pictures", "{folder}"], "no picture file missing.png"),
    (["components", "{folder}/0.png", "--pictures", "{folder}", "--counts", "6"], "choose 1 to 5"),
    (["components", "{folder}/0.png", "--pictures", "{folder}", "--counts", "0"], "choose 1 to"),
    (["components", "{folder}/0.png", "--pictures", "{one}"], "two or more"),
    (["spread", "a dog", "--num-images", "1"], "2 or more"),
    (["spread", " "], "an empty prompt"),
])  # fmt: skip
def test_bad_input_ends_in_one_line(explore, folder, tmp_path, argv, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "one" / "a.png")
    places = {"folder": folder, "empty": tmp_path / "empty", "one": tmp_path / "one"}
    code, out, err = explore(*(a.format(**places) for a in argv))
    errors = [line for line in err if line.startswith("error: ")]
    assert code == 2 and out == [] and len(errors) == 1 and says in errors[0]
    assert not (tmp_path / "out").exists()

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unclip.pipeline import UnCLIP

INK = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((24, 24))


@pytest.fixture
def files(tmp_path):
    """cat.png, mask.png (its left half white), small.png (a mask of another size) and broken.png."""
    INK.save(tmp_path / "cat.png")
    mask = Image.new("L", INK.size, 0)
    mask.paste(255, (0, 0, 12, 24))
    mask.save(tmp_path / "mask.png")
    mask.resize((9, 9)).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "cat.png").read_bytes()[:60])
    return tmp_path


@pytest.fixture
def edit(run_script, model_files, files, monkeypatch):
    monkeypatch.chdir(files)

    def run(command, *argv, model=model_files):
        return run_script("edit", command, *argv, "--model", model, "--out", "out", "--device", "cpu")

    return run


def array(image):
    return np.asarray(image.convert("RGB"), dtype=float)


# ---- what it writes --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("argv", [
    ["vary", "cat.png", "--fidelity", "0.5"], ["mix", "cat.png:2", "a dog:0.5"],
    ["redraw", "cat.png", "a dog"], ["redraw", "cat.png"], ["inpaint", "cat.png", "mask.png", "a dog"],
])  # fmt: skip
def test_pictures_a_png_each_and_a_grid(edit, files, argv):
    code, out, _ = edit(*argv, "--num-images", "2", "--seed", "5", "--steps", "2")
    assert code == 0 and [Path(p).suffix for p in out] == [".png"] * 3
    *pictures, sheet = (Image.open(p) for p in out)
    assert [p.text["seed"] for p in pictures] == ["5", "6"] and sheet.width == 2 * 128 + 2
    facts = pictures[0].text
    assert facts["method"] == argv[0] and json.loads(facts["settings"])["num_inference_steps"] == 2
    assert sorted((files / "out").iterdir()) == sorted(files / p for p in out)


@pytest.mark.parametrize("argv", [["blend", "cat.png", "a dog"], ["edit", "cat.png", "a dog", "--base", "a cat"]])
def test_frames_a_png_each_a_strip_and_an_animation(edit, argv):
    code, out, _ = edit(*argv, "--frames", "4", "--steps", "3")
    assert code == 0 and [Path(p).suffix for p in out] == [".png"] * 5 + [".gif"]
    frames, strip, gif = [Image.open(p) for p in out[:4]], Image.open(out[4]), Image.open(out[5])
    assert strip.width == 4 * 128 + 3 * 2 and gif.size == (128, 128) and gif.n_frames == 4
    for k, frame in enumerate(frames):
        assert strip.getpixel((k * 130, 0)) == frame.getpixel((0, 0))
        gif.seek(k)
        shown = array(gif.resize(frame.size, Image.Resampling.NEAREST))
        assert np.abs(shown - array(frame)).mean() < 12  # a palette's


def test_what_stands_in_the_file_draws_the_file_again(edit, model_files):
    _, out, _ = edit("edit", "cat.png", "a dog", "--frames", "3", "--seed", "4", "--strength", "0.6")
    facts = Image.open(out[-3]).text
    model = UnCLIP.from_pretrained(model_files)
    again = model.edit(INK, facts["caption"], base=facts["base"], strength=json.loads(facts["strength"]), num_frames=3,
                       seed=int(facts["seed"]), **json.loads(facts["settings"]))  # fmt: skip
    assert np.abs(array(again[-1]) - array(Image.open(out[2]))).max() <= 1


def test_seeds_may_be_named_one_by_one(edit):
    code, out, _ = edit("vary", "cat.png", "--seed", "3,17,99")
    assert code == 0 and [Path(p).name for p in out] == [f"vary-fidelity-0-cat-{k}.png" for k in ("3", "17", "99", "3-grid")]


@pytest.mark.parametrize("one, other", [
    (["redraw", "cat.png", "a dog"], ["redraw", "cat.png", "a cat"]),
    (["vary", "cat.png", "--fidelity", "0.5"], ["vary", "cat.png", "--fidelity", "1"]),
    (["edit", "cat.png", "a dog " * 20, "--strength", "0.2"], ["edit", "cat.png", "a dog " * 20, "--strength", "0.3"]),
])  # fmt: skip
def test_different_drawings_do_not_share_a_file(edit, one, other):
    assert not set(edit(*one)[1]) & set(edit(*other)[1])


def test_a_colon_that_is_no_weights_reaches_the_model_as_one(edit, monkeypatch):
    seen = []
    monkeypatch.setattr(UnCLIP, "texts", lambda self, prompts, *rest, f=UnCLIP.texts: seen.extend(prompts) or f(self, prompts, *rest))
    for argv in (["mix", r"the dog 10\:30:0.5", "cat.png"], ["edit", "cat.png", r"the dog 10\:30"], ["blend", r"the dog 10\:30", "cat.png"],
                 ["redraw", "cat.png", r"the dog 10\:30"], ["redraw", "cat.png", "a dog", "--negative-prompt", r"the dog 10\:30"]):  # fmt: skip
        seen.clear()
        assert edit(*argv)[0] == 0 and "the dog 10:30" in seen


def test_a_long_prompt_is_no_file_name(edit):
    code, out, _ = edit("mix", "the dog " * 100, "cat.png:0.5", "--num-images", "1")
    assert code == 0 and all(len(Path(p).name) < 100 for p in out)


def test_words_that_the_model_never_saw_are_noted(edit):
    for argv in (["blend", "cat.png", "a brigde"], ["edit", "cat.png", "a brigde"], ["redraw", "cat.png", "a brigde"]):
        code, _, err = edit(*argv)
        assert code == 0 and any("never saw 'brigde'" in line for line in err)


def test_stages_can_be_seen(edit, cascade_files):
    for stage, side in (("base", 8), ("upsampler-1", 16)):
        code, out, _ = edit("inpaint", "cat.png", "mask.png", "a dog", "--stop-after", stage, "--num-images", "1",
                            "--upsampler-steps", "2", model=cascade_files)  # fmt: skip
        assert code == 0 and Image.open(out[0]).size == (side, side)


# ---- bad input -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("argv, says", [
    (["vary", "missing.png"], "no picture file missing.png"),
    (["vary", "broken.png"], "cannot read the picture broken.png"),
    (["vary", "cat.png", "--fidelity", "2"], "fidelity 2.0"),
    (["vary", "cat.png", "--seed", "1,2", "--num-images", "3"], "2 seeds for 3 images"),
    (["blend", "cat.png"], "a blend of 1"),
    (["blend", "cat.png", "missing.png"], "no picture file missing.png"),
    (["blend", "cat.png", ""], "an empty prompt"),
    (["blend", "cat.png", "a dog:1.5.1"], "'1.5.1'"),
    (["mix", "cat.png:much1", "a dog:0.5x"], "'0.5x'"),
    (["mix", "cat.png:1", "cat.png:-1"], "cancel"),
    (["edit", "cat.png", " "], "an empty prompt"),
    (["redraw", "cat.png", "--strength", "0"], "strength 0.0"),
    (["redraw", "cat.png", "a dog:1,2"], "'1,2'"),
    (["edit", "cat.png", "a dog:2"], "has weights, which do nothing there"),
    (["vary", "cat.png", "--negative-prompt", "a dog:2"], "has weights, which do nothing there"),
    (["vary", "cat.png", "--negative-prompt", "a dog", "--guidance-scale", "1"], "does nothing without guidance"),
    (["blend", "cat.png", "a dog", "--seed", "1,2"], "2 seeds: all frames share one"),
    (["blend", "cat.png", "a dog", "--eta", "0.5"], "drawn without eta"),
    (["blend", "cat.png", "a dog", "--steps", "0"], "num_inference_steps = 0"),
    (["inpaint", "cat.png", "small.png", "a dog"], "the mask is 9x9, the picture 24x24"),
    (["inpaint", "cat.png", "missing.png"], "no picture file missing.png"),
    (["vary", "cat.png", "--stop-after", "upsampler-1"], "no stage 'upsampler-1'"),
])  # fmt: skip
def test_bad_input_ends_in_one_line_and_writes_nothing(edit, files, argv, says):
    code, out, err = edit(*argv)
    errors = [line for line in err if line.startswith("error: ")]
    assert code == 2 and out == [] and len(errors) == 1 and says in errors[0]
    assert not (files / "out").exists()


def test_an_enormous_picture_is_not_unpacked(edit, files, monkeypatch):
    Image.new("1", (11_000, 10_000)).save(files / "bomb.png")
    Image.new("1", (20_000, 20_000)).save(files / "larger.png")
    for name in ("bomb.png", "larger.png"):
        monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("unpacked"))
        code, _, err = edit("vary", name)
        assert code == 2 and len(err) == 1 and "shrink it to 100,000,000" in err[0]

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unclip import diffusion_demo as demo
from unclip.diffusion import Schedule

PHOTOGRAPH = Path(__file__).resolve().parents[1] / "data" / "photos" / "cat.jpg"


@pytest.fixture
def run_demo(run_script, model_files, tmp_path):
    def run(*argv):
        return run_script("diffusion_demo", "--model", model_files, "--out", tmp_path / "out", "--device", "cpu", *argv)

    return run


def test_two_strips_and_two_animations(run_demo, tmp_path):
    code, out, err = run_demo("--steps", "12", "--prompt", "a dog")
    assert code == 0
    assert out == [str(tmp_path / "out" / name) for name in ("forward.png", "forward.gif", "reverse.png", "reverse.gif")]
    for path in out:
        Image.open(path).load()
    assert Image.open(out[1]).n_frames > 20
    assert 8 <= Image.open(out[3]).n_frames <= 13  # a frame a step and the picture; equal ones are merged
    forward, reverse = Image.open(out[0]), Image.open(out[2])
    assert forward.width == reverse.width > 8 * 128  # eight columns
    assert reverse.height > forward.height + 120  # x_0-hat below x_t


def test_a_given_picture_is_what_dissolves(run_demo, tmp_path):
    Image.new("RGB", (40, 20), (200, 30, 90)).save(tmp_path / "photo.png")
    code, out, _ = run_demo("--image", tmp_path / "photo.png", "--steps", "1")
    assert code == 0
    strip = np.asarray(Image.open(out[0]), dtype=float)
    columns = [strip[:128, demo.MARGIN + k * 134 : demo.MARGIN + k * 134 + 128] for k in range(8)]
    assert (columns[0] == (200, 30, 90)).all()
    spread = [column.std() for column in (c - c.mean((0, 1)) for c in columns)]
    assert spread == sorted(spread) and spread[-1] > 50  # noisier from column to column


def test_the_photograph_that_ships_dissolves_by_default(run_demo):
    _, out, _ = run_demo("--steps", "1")
    assert Image.open(PHOTOGRAPH).size == (256, 256)
    first = Image.open(out[0]).crop((demo.MARGIN, 0, demo.MARGIN + 128, 128))
    shown, there = (np.asarray(i.convert("L").resize((8, 8), Image.Resampling.BOX)) for i in (first, Image.open(PHOTOGRAPH)))
    assert np.corrcoef(shown.ravel(), there.ravel())[0, 1] > 0.98


def test_forward_is_the_jump_of_ddpm():
    schedule = Schedule.cosine()
    x_0 = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    frames = dict(demo.forward(schedule, x_0, [-1, 300, 999], seed=4))
    assert torch.equal(frames[-1], x_0)
    # at the end only noise is left, and it is the noise of every frame
    eps = (frames[999] - schedule.alpha_bar[999].sqrt().float() * x_0) / (1 - schedule.alpha_bar[999]).sqrt().float()
    alpha_bar = schedule.alpha_bar[300].float()
    torch.testing.assert_close(frames[300], alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps)


def test_reverse_ends_at_the_models_picture(model):
    settings = model.settings(num_inference_steps=5)
    frames = demo.reverse(model, "a dog", 3, settings)
    timesteps = [frame[0] for frame in frames]
    assert timesteps == [*model.decoder.schedule.timesteps(5, "trailing").tolist(), -1]
    picture = model.sample("a dog", 1, 3, settings)
    torch.testing.assert_close(frames[-1][1], picture)
    torch.testing.assert_close(frames[-2][2], picture, rtol=0, atol=1e-4)  # the last step goes to x_0-hat
    assert all(x_0.abs().max() <= 1 for _, _, x_0 in frames)
    several = demo.reverse(model, "a dog", 3, model.settings(num_inference_steps=5, num_samples=3))  # one way is shown
    assert [frame[0] for frame in several] == timesteps and torch.equal(several[-1][1], frames[-1][1])


def test_captions_count_as_the_papers_do():
    schedule = Schedule.linear()
    assert demo.caption(schedule, -1) == ("t = 0", "alpha_bar 1")
    assert demo.caption(schedule, 0) == ("t = 1", "alpha_bar 1")  # 0.9999
    t, alpha_bar = demo.caption(schedule, 999)
    assert t == "t = 1000" and float(alpha_bar.split()[1]) == pytest.approx(schedule.alpha_bar[-1].item(), rel=0.01)


def test_evenly():
    assert demo.evenly(-1, 999, 8) == [-1, 142, 285, 428, 570, 713, 856, 999]
    assert demo.evenly(0, 1, 8) == [0, 1]


@pytest.mark.parametrize("size", [8, 64, 200])
def test_pictures_of_any_size_keep_their_pixels(size):
    x = torch.rand(1, 3, size, size) * 2 - 1
    picture = demo.cell((499, x, -x), Schedule.cosine())
    side = size * max(1, 128 // size)
    assert picture.width >= side and picture.height > 2 * side
    corner = ((x[0, :, 0, 0] + 1) * 127.5).round().int().tolist()
    assert list(picture.getpixel((side // size - 1, side // size - 1))) == corner


@pytest.mark.parametrize("argv, says", [
    (["--image", "missing.png"], "no picture file missing.png"),
    (["--image", "{text}"], "give a PNG, JPEG or WebP file"),
    (["--image", "{cut}"], "give a PNG, JPEG or WebP file"),
    (["--prompt", " "], "an empty prompt"),
    (["--steps", "0"], "num_inference_steps = 0"),
    (["--seed", "-1"], "seed -1"),
    (["--out", "{text}"], "is a file"),
])  # fmt: skip
def test_bad_input_ends_in_one_line(run_demo, tmp_path, argv, says):
    (tmp_path / "text").write_text("no picture")
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.png")
    (tmp_path / "cut").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    code, out, err = run_demo(*(a.format(text=tmp_path / "text", cut=tmp_path / "cut") for a in argv))
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ") and says in err[0]
    assert not (tmp_path / "out").exists()


def test_paths_are_printed_once_written(run_demo):
    assert all(Path(path).is_file() for path in run_demo("--steps", "2")[1])

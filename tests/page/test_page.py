"""The page without a browser: bounds, masks, and how drawings are run, stopped and told of."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from threading import Event

import pytest
import torch
from PIL import Image

from unclip.errors import UserError
from unclip.page import limits
from unclip.page.drawing import Order, Stopped, Studio, Watch
from unclip.progress import Step

from .conftest import LOCAL, free_port

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"


@pytest.fixture
def studio(model):
    studio = Studio(model)
    yield studio
    studio.close()


def texts(studio, work, **order):
    return [text for _, text in studio.draw(lambda: Order(work, **order))]


# ---- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, 17, 2.5, float("nan"), float("inf")])
def test_numbers_out_of_bounds_are_refused(value):
    with pytest.raises(UserError, match="pictures: choose a whole number from 1 to 16"):
        limits.whole("pictures", value, 1, 16)


def test_numbers_within_bounds_become_whole():
    assert [limits.whole("pictures", value, 1, 16) for value in (1, 16, 4.0)] == [1, 16, 4]


def test_prompts_have_a_length():
    assert limits.prompt("  a dog ") == "a dog" and limits.prompt(None) == ""
    assert limits.prompt("a" * 500) == "a" * 500
    with pytest.raises(UserError, match="501 characters: use at most 500"):
        limits.prompt("a" * 501)


def test_class_names_come_by_line_or_comma():
    assert limits.class_names("dog\n cat, dog,\n\nred car,") == ["dog", "cat", "red car"]


@pytest.mark.parametrize("text", ["", None, "dog", "dog, dog", ",".join(map(str, range(101))), f"dog, {'a' * 501}"])
def test_class_names_out_of_bounds_are_refused(text):
    with pytest.raises(UserError):
        limits.class_names(text)


# ---- drawing -----------------------------------------------------------------------------------------------------------


def test_a_drawing_is_what_the_model_draws(studio):
    order = Order(lambda callback: studio.model("a dog", num_images=2, seed=5, callback=callback), ["seed 5", "seed 6"])
    *_, (shown, text) = studio.draw(lambda: order)
    assert [caption for _, caption in shown] == ["seed 5", "seed 6"]
    assert [image.tobytes() for image, _ in shown] == [i.tobytes() for i in studio.model("a dog", num_images=2, seed=5)]
    assert text.startswith("done in ")


def test_previews_are_the_pictures_as_guessed_so_far(studio):
    guess, go_on = torch.zeros(2, 3, 8, 8), Event()

    def work(callback):
        prediction = type("Prediction", (), {"x_0": guess})
        callback(Step("base", 3, 10, range(2), guess, prediction, 0.4))
        go_on.wait(30)
        return []

    drawing = studio.draw(lambda: Order(work))
    shown, text = next(drawing)
    assert [image.size for image in shown] == [(8, 8), (8, 8)] and shown[0].getpixel((0, 0)) == (128, 128, 128)
    assert text == "drawing: step 4 of 10"
    assert next(drawing)[0] is None, "the same step is shown once"
    go_on.set()
    assert list(drawing)[-1][1].startswith("done")


def test_words_never_seen_are_noted(studio):
    assert "note: this model never saw 'zebra'" in texts(studio, lambda callback: [], prompts=["a zebra"])[-1]


def test_closing_a_drawing_ends_its_work(studio):
    begun, ended = Event(), []

    def work(callback):
        try:
            for _ in range(1000):
                callback(None)
                begun.set()
                time.sleep(0.01)
        except Stopped:
            ended.append(True)
            raise

    drawing = studio.draw(lambda: Order(work))
    next(drawing)
    assert begun.wait(30)
    drawing.close()
    assert texts(studio, lambda callback: [])[-1].startswith("done"), "the next one gets its turn"
    assert ended == [True]


def test_a_drawing_that_waits_and_is_closed_never_begins(studio):
    go_on, begun = Event(), []
    first = studio.draw(lambda: Order(lambda callback: go_on.wait(30)))
    second = studio.draw(lambda: Order(lambda callback: begun.append(True)))
    next(first)
    assert next(second) == (None, "waiting for the model")
    second.close()
    go_on.set()
    list(first)
    assert texts(studio, lambda callback: [])[-1].startswith("done")
    assert begun == []


@pytest.mark.parametrize("end", ["stop", "closed"])
def test_a_watch_that_is_ended_raises(end):
    watch = Watch(Event())
    watch("a step")
    getattr(watch, end).set()
    with pytest.raises(Stopped):
        watch("another")
    assert watch.step == "a step"


def test_closing_the_studio_ends_what_is_drawn_and_what_waits(studio):
    def work(callback):
        for _ in range(1000):
            callback(None)
            time.sleep(0.01)

    first, second = [studio.draw(lambda: Order(work)) for _ in range(2)]
    next(first), next(second)
    studio.close()
    assert [list(each)[-1] for each in (first, second)] == [(None, "stopped")] * 2


def test_errors_become_a_line_and_the_studio_goes_on(studio):
    def wrong():
        raise UserError("no picture: upload one first")

    assert list(studio.draw(wrong)) == [(None, "error: no picture: upload one first")]
    assert texts(studio, lambda callback: studio.model("", callback=callback))[-1].startswith("error: an empty prompt")
    assert texts(studio, lambda callback: 1 / 0)[-1] == "error: division by zero"
    assert texts(studio, lambda callback: [])[-1].startswith("done")


# ---- what needs gradio -------------------------------------------------------------------------------------------------


def test_the_mask_is_what_was_painted_on_any_layer():
    pytest.importorskip("gradio")
    from unclip.page.inpaint import picture_and_mask

    layers = [Image.new("RGBA", (8, 8)) for _ in range(2)]
    layers[0].paste((255, 0, 0, 255), (0, 0, 2, 8))
    layers[1].paste((0, 0, 0, 255), (6, 0, 8, 8))
    layers[1].putpixel((4, 4), (255, 255, 255, 100))  # the faint edge of a brush
    image, mask = picture_and_mask({"background": Image.new("RGBA", (8, 8), "blue"), "layers": layers})
    assert (image.mode, mask.mode, mask.size) == ("RGB", "L", (8, 8)) and image.getpixel((0, 0)) == (0, 0, 255)
    assert [mask.getpixel((x, 4)) for x in range(8)] == [255, 255, 0, 0, 0, 0, 255, 255]


@pytest.mark.parametrize("layers", [[], [Image.new("RGBA", (8, 8))]])
def test_nothing_painted_is_refused(layers):
    pytest.importorskip("gradio")
    from unclip.page.inpaint import picture_and_mask

    with pytest.raises(UserError, match="nothing is painted"):
        picture_and_mask({"background": Image.new("RGB", (8, 8)), "layers": layers})
    for empty in (None, {"background": None, "layers": layers}):
        with pytest.raises(UserError, match="no picture"):
            picture_and_mask(empty)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_pictures_of_any_mode_are_taken(tmp_path, mode):
    pytest.importorskip("gradio")
    from unclip.page.parts import picture_of

    path = tmp_path / "picture.tiff"
    Image.new(mode, (3000, 20)).save(path)
    image = picture_of(path)
    assert image.mode == "RGB" and image.size == (1024, 7)


def test_pictures_are_turned_as_they_say(tmp_path):
    pytest.importorskip("gradio")
    from unclip.page.parts import picture_of

    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert picture_of(tmp_path / "turned.jpg").size == (20, 30)


@pytest.mark.parametrize("name", ["text.png", "cut.jpg", "empty.webp", "drawing.svg"])
def test_a_file_that_is_no_picture_is_named_and_nothing_of_the_server(tmp_path, name):
    pytest.importorskip("gradio")
    from unclip.page.parts import PHOTO, picture_of

    content = {"text.png": b"no picture", "cut.jpg": PHOTO.read_bytes()[:700], "empty.webp": b""}
    (tmp_path / name).write_bytes(content.get(name, b"<svg xmlns='http://www.w3.org/2000/svg'/>"))
    with pytest.raises(UserError) as refused:
        picture_of(tmp_path / name)
    assert name in str(refused.value) and str(tmp_path) not in str(refused.value)
    with pytest.raises(UserError, match="no picture: upload one first"):
        picture_of(None)


def test_the_page_tells_nobody_and_shares_nothing(server):
    with urllib.request.urlopen(server.url + "config") as answer:
        config = json.load(answer)
    assert config["analytics_enabled"] is False and server.page.share is False
    assert config["max_file_size"] == 20 * 1024 * 1024


# ---- the script --------------------------------------------------------------------------------------------------------


def test_help_needs_neither_gradio_nor_torch():
    code = "import sys, runpy; sys.argv = ['demo.py', '--help']\n"
    code += f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    code += "except SystemExit: print({'torch', 'gradio'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "--port" in out and out.splitlines()[-1] == "set()"


def test_without_gradio_a_line_says_what_to_install(run_script, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run_script("demo") == (2, [], ['error: the page needs gradio: pip install -e ".[demo]"'])


def test_auto_is_a_dtype_by_the_time_the_page_is_served(run_script, monkeypatch):
    pytest.importorskip("gradio")
    served = []
    monkeypatch.setattr("unclip.page.serve", lambda **options: served.append(options["dtype"]))
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    for dtype in ("auto", "float16"):
        run_script("demo", "--device", "cpu", "--dtype", dtype)
    assert served == ["bfloat16", "float16"]


def test_a_port_in_use_is_a_line(run_script):
    pytest.importorskip("gradio")
    with socket.socket() as other:
        other.bind((LOCAL, 0))
        other.listen()
        port = other.getsockname()[1]
        code, out, err = run_script("demo", "--port", port)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith(f"error: cannot listen on {LOCAL}:{port}") and "--port" in err[0]
    assert run_script("demo", "--port", 99999)[0] == 2


def test_the_script_serves_until_it_is_interrupted(model_files):
    pytest.importorskip("gradio")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, SCRIPT, "--model", model_files, "--port", str(port)], stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    try:
        assert server.stdout.readline().strip() == f"http://{LOCAL}:{port}/"
        with urllib.request.urlopen(f"http://{LOCAL}:{port}/") as answer:
            assert b"unclip" in answer.read()
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    finally:
        server.kill()

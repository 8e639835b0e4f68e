"""The page as a visitor meets it, in a real browser."""

import re
import struct
import time
import zlib
from urllib.parse import urlsplit

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed: no page to test")

from unclip.page.parts import PHOTO

LOADED = "images => images.length > 0 && images.every(image => image.complete && image.naturalWidth > 0)"


def tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()
    return page.get_by_role("tabpanel").filter(visible=True)


def press(panel, name):
    panel.get_by_role("button", name=name, exact=True).click()


def status(panel):
    return panel.get_by_label("Status").first


def wait_for_status(panel, pattern):
    box, deadline = status(panel), time.monotonic() + 60
    while not re.search(pattern, box.input_value()):
        assert time.monotonic() < deadline, f"the status stays {box.input_value()!r}, never {pattern!r}"
        panel.page.wait_for_timeout(50)
    return box.input_value()


def pictures(panel, count):
    """Waits for `count` pictures in the gallery, and for the browser to have loaded them."""
    images = panel.locator(".gallery-container img")
    images.nth(count - 1).wait_for()
    for _ in range(600):  # a busy machine takes its time
        if images.evaluate_all(LOADED):
            break
        panel.page.wait_for_timeout(50)
    assert images.count() == count and images.evaluate_all(LOADED)
    return images


def upload(panel, path):
    panel.locator("input[type=file]").first.set_input_files(path)


def set_number(panel, label, value):
    if not panel.get_by_label("Seed").first.is_visible():
        panel.get_by_role("button", name="Settings").click()
    number = panel.get_by_label(f"number input for {label}")
    for _ in range(20):  # settings that have only just appeared may go back to what they were
        number.fill(str(value))
        number.press("Tab")
        panel.page.wait_for_timeout(300)
        if number.input_value() == str(value):
            return
    raise AssertionError(f"{label} stays {number.input_value()}, never {value}")


def in_the_middle_of_a_drawing(page, meter):
    """The panel of a drawing of 100 slow steps, some of which are done."""
    panel = tab(page, "Generate")
    meter.pause = 0.1
    set_number(panel, "Steps", 100)
    panel.get_by_label("What to draw").fill("a dog")
    press(panel, "Draw")
    wait_for_status(panel, "drawing: step")
    return panel


def test_a_prompt_becomes_pictures_with_their_seeds(visit):
    panel = tab(visit(), "Generate")
    panel.get_by_label("What to draw").fill("a photo of a zebra")
    press(panel, "Draw")
    said = wait_for_status(panel, "^done")
    assert "never saw 'zebra'" in said
    pictures(panel, 4)
    assert panel.locator(".caption-label").all_inner_texts() == [f"seed {k}" for k in range(4)]


def test_an_example_fills_the_prompt(visit):
    panel = tab(visit(), "Generate")
    panel.get_by_text("a school bus", exact=True).click()
    panel.page.wait_for_function("() => [...document.querySelectorAll('textarea')].some(t => t.value == 'a school bus')")
    panel.get_by_label("What to draw").press("Enter")
    wait_for_status(panel, "^done")
    pictures(panel, 4)


def test_the_pictures_appear_while_they_are_drawn(visit, meter):
    panel = tab(visit(), "Generate")
    meter.pause = 0.5  # so that a busy machine, too, looks before the end
    set_number(panel, "Steps", 60)
    set_number(panel, "Pictures", 2)
    panel.get_by_label("What to draw").fill("a dog")
    press(panel, "Draw")
    images = pictures(panel, 2)
    assert re.search(r"drawing: step \d+ of 60", status(panel).input_value())
    early = images.first.get_attribute("src")
    meter.pause = 0.0
    wait_for_status(panel, "^done")
    pictures(panel, 2)
    assert images.first.get_attribute("src") != early


def test_stop_ends_the_work_and_the_next_drawing_begins_anew(visit, meter):
    panel = in_the_middle_of_a_drawing(visit(), meter)
    press(panel, "Stop")
    wait_for_status(panel, "^stopped$")
    set_number(panel, "Steps", 1)
    deadline = time.monotonic() + 60
    while status(panel).input_value() == "stopped":  # gradio ignores a click until it has put the stopped run away
        assert time.monotonic() < deadline
        press(panel, "Draw")
        panel.page.wait_for_timeout(500)
    wait_for_status(panel, "^done")
    assert meter.runs < 100, "the first drawing went on to its end"


def test_who_leaves_the_page_leaves_no_work_behind(visit, meter):
    panel = in_the_middle_of_a_drawing(visit(), meter)
    panel.page.close()
    runs = -1
    while runs != meter.runs:
        runs = meter.runs
        time.sleep(1)
    assert runs < 100


def test_two_visitors_take_turns(visit, meter):
    panels = [tab(visit(), "Generate"), tab(visit(), "Image-to-image")]
    meter.pause = 0.05
    upload(panels[1], PHOTO)
    panels[1].locator("[data-testid=image] img, .image-container img").first.wait_for()
    panels[0].get_by_label("What to draw").fill("a dog")
    for panel, button in zip(panels, ("Draw", "Redraw")):
        set_number(panel, "Steps", 20)
        press(panel, button)
    for panel in panels:
        wait_for_status(panel, "^done")
        pictures(panel, 4)
    assert meter.most_at_once == 1


@pytest.mark.parametrize(
    "name, button, shown", [("Variations", "Vary", 4), ("Image-to-image", "Redraw", 4), ("Edit", "Edit", 5)]
)
def test_an_uploaded_picture_becomes_others(visit, name, button, shown):
    panel = tab(visit(), name)
    upload(panel, PHOTO)
    panel.locator(".image-container img").first.wait_for()
    if name == "Edit":
        panel.get_by_label("What it is to become").fill("a dog")
    press(panel, button)
    wait_for_status(panel, "^done")
    pictures(panel, shown)


def test_a_picture_and_words_are_blended(visit):
    panel = tab(visit(), "Blend")
    upload(panel, PHOTO)
    panel.locator(".image-container img").first.wait_for()
    panel.get_by_label("To: words").fill("a dog")
    press(panel, "Blend")
    wait_for_status(panel, "^done")
    pictures(panel, 7)
    assert panel.locator(".caption-label").all_inner_texts()[::6] == ["0%", "100%"]


def test_what_is_painted_over_is_inpainted(visit):
    panel = tab(visit(), "Inpaint")
    upload(panel, PHOTO)
    press(panel, "Inpaint")
    wait_for_status(panel, "error: (no picture|nothing is painted)")
    canvas = panel.locator("canvas").first
    panel.page.wait_for_timeout(1000)  # until the editor has laid the picture out, of which it gives no sign
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    panel.page.mouse.move(x - 50, y)
    panel.page.mouse.down()
    panel.page.mouse.move(x + 50, y + 20, steps=10)
    panel.page.mouse.up()
    panel.get_by_label("What the whole picture shows").fill("a dog")
    press(panel, "Inpaint")
    wait_for_status(panel, "^done")
    pictures(panel, 4)


def test_a_picture_is_classified(visit):
    panel = tab(visit(), "Classify")
    upload(panel, PHOTO)
    panel.locator(".image-container img").first.wait_for()
    panel.get_by_label("Class names").fill("dog\ncat, bridge")
    press(panel, "Classify")
    wait_for_status(panel, "^done")
    for name in ("dog", "cat", "bridge"):
        panel.get_by_text(name, exact=True).last.wait_for()


def test_diffusion_is_shown_there_and_back(visit):
    panel = tab(visit(), "How diffusion works")
    press(panel, "Add noise")
    panel.get_by_text("t = 1000, alpha_bar").wait_for()
    pictures(panel, 8)
    press(panel, "Draw from noise")
    panel.get_by_text("the picture", exact=True).wait_for()
    assert panel.get_by_text(re.compile(r"^x_t: t = \d+, alpha_bar")).count() == 3


@pytest.mark.parametrize("broken, why", [("text.png", "cannot read"), ("bomb.png", "pixels")])
def test_a_file_that_is_no_picture_is_refused_and_the_page_goes_on(visit, tmp_path, broken, why):
    path = tmp_path / broken
    if broken == "text.png":
        path.write_text("no picture")
    else:  # says that it has 144 million pixels
        Image.new("1", (8, 8)).save(path)
        content = bytearray(path.read_bytes())
        content[16:24] = struct.pack(">II", 12_000, 12_000)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        path.write_bytes(content)
    panel = tab(visit(), "Variations")
    upload(panel, path)
    toast = panel.page.get_by_test_id("toast-body")
    toast.wait_for()
    said = toast.inner_text()
    assert broken in said and why in said and "/tmp" not in said
    press(panel, "Vary")
    wait_for_status(panel, "^error: no picture")
    upload(panel, PHOTO)
    panel.locator(".image-container img").first.wait_for()
    press(panel, "Vary")
    wait_for_status(panel, "^done")


def test_a_picture_that_no_browser_shows_is_shown(visit, tmp_path):
    Image.new("I;16", (40, 30), 40_000).save(tmp_path / "picture.tiff")
    panel = tab(visit(), "Variations")
    upload(panel, tmp_path / "picture.tiff")
    panel.page.wait_for_function(f"""() => ({LOADED})([...document.querySelectorAll('.image-container img')])""")
    press(panel, "Vary")
    wait_for_status(panel, "^done")


def test_errors_are_a_line_on_the_page(visit):
    panel = tab(visit(), "Generate")
    press(panel, "Draw")
    assert "an empty prompt" in wait_for_status(panel, "^error: ")
    panel.get_by_label("What to draw").fill("a dog:1000")
    press(panel, "Draw")
    assert "1000" in wait_for_status(panel, "^error: the weight")
    panel.get_by_label("What to draw").fill("a dog")
    press(panel, "Draw")
    wait_for_status(panel, "^done")


def test_it_fits_a_phone(visit):
    page = visit(390, 844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    panel = tab(page, "Generate")
    panel.get_by_label("What to draw").fill("a dog")
    press(panel, "Draw")
    wait_for_status(panel, "^done")
    pictures(panel, 4)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_no_byte_comes_from_elsewhere(visit, server):
    page = visit()
    for name in page.get_by_role("tab").all_inner_texts():
        tab(page, name)
    panel = tab(page, "Generate")
    panel.get_by_label("What to draw").fill("a dog")
    press(panel, "Draw")
    wait_for_status(panel, "^done")
    pictures(panel, 4)
    hosts = {urlsplit(url).hostname for url in page.requests if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert server.strangers == []

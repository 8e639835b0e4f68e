"""What the tabs share: widgets, the settings folded away, and how a button becomes a drawing."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

import gradio as gr

from ..data.images import read_image
from ..errors import UserError
from ..hub import PHOTOS
from ..seeds import MAX_SEED
from . import limits

PHOTO = PHOTOS / "cat.jpg"
LARGEST_SIDE = 1024  # of a picture as it is kept on the page


def prompt_box(label, placeholder="a photo of a dog", value=""):
    return gr.Textbox(value, label=label, placeholder=placeholder, max_length=limits.MAX_PROMPT, lines=1)


def read_upload(path):
    """An uploaded file of any kind of picture as RGB, no larger than the page needs. Raises UserError as `read_image`."""
    image = read_image(path)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return image


def shown_upload(path):
    """As `read_upload`, but None where there is no picture, and the page says why."""
    try:
        return path and read_upload(path)
    except UserError as error:
        gr.Warning(escape(without_path(error, path)), title="Not a picture that can be read")


def without_path(error, path):
    """An error's line with the name of a file in the place of where the server keeps it."""
    return str(error).replace(str(path), Path(path).name)


def picture_input(label="Picture", value=None):
    """A place for a picture. A function gets the path of the file; `picture_of` reads it."""
    picture = gr.Image(
        value, label=label, type="filepath", format="png", sources=["upload", "clipboard"], height=260, buttons=[]
    )
    picture.preprocess = lambda upload: upload and upload.path  # gradio's own would open the file, with errors of its own
    picture.upload(shown_upload, picture, picture, show_progress="hidden", api_visibility="private")
    if value is None:
        gr.Examples([str(PHOTO)], picture, label="Or take this one", api_visibility="private")
    return picture


def picture_of(path):
    """What was put into a `picture_input`, as a PIL image. Raises UserError where nothing was, as `read_upload` does."""
    if not path:
        raise UserError("no picture: upload one first")
    try:
        return read_upload(path)
    except UserError as error:
        raise UserError(without_path(error, path)) from None


def seed_box():
    return gr.Number(0, label="Seed", info="same seed, same picture", precision=0, minimum=0, maximum=MAX_SEED)


def seed_of(value, count=1):
    """A seed box's value, as the first of `count` seeds. Raises UserError for none, or one out of range."""
    return limits.whole("seed", value, 0, MAX_SEED + 1 - count)


def steps_slider(model, value=None):
    """value: at first; None: the model's default."""
    value = min(value or model.defaults.num_inference_steps, limits.MAX_STEPS)
    return gr.Slider(1, limits.MAX_STEPS, value, step=1, label="Steps", info="more: slower, finer")


def inversion_steps(model):
    """How many steps a model takes where it finds the noise behind a picture."""
    return model.deterministic({}, "an inversion").num_inference_steps


def steps_of(value):
    """A steps slider's value. Raises UserError for one out of range."""
    return limits.whole("steps", value, 1, limits.MAX_STEPS)


class Knobs:
    """Settings that most people leave alone, folded away.

    Args:
        model: an UnCLIP.
        count: "num_images" or "num_frames"; value: how many at first.
        steps: of the decoder at first; None: the model's default.
    """

    def __init__(self, model, count="num_images", value=4, steps=None):
        self.count = count
        guidance, frames = min(model.defaults.guidance_scale, limits.MAX_GUIDANCE), count == "num_frames"
        with gr.Accordion("Settings", open=False):
            self.widgets = [
                gr.Slider(1 + frames, limits.MAX_IMAGES, value, step=1, label="Frames" if frames else "Pictures"),
                seed_box(),
                steps_slider(model, steps),
                gr.Slider(0, limits.MAX_GUIDANCE, guidance, step=0.1, label="Guidance", info="to what is asked for; 1: none"),
                gr.Textbox(label="Negative prompt", info="what not to show", max_length=limits.MAX_PROMPT),
            ]

    def read(self, count, seed, steps, guidance, negative):
        """The widgets' values as keywords for the methods of UnCLIP. Raises UserError for what is out of bounds."""
        count = limits.whole(self.count, count, 1, limits.MAX_IMAGES)
        return {
            self.count: count,
            "seed": seed_of(seed, count),
            "num_inference_steps": steps_of(steps),
            "guidance_scale": guidance,
            "negative_prompt": limits.prompt(negative, "the negative prompt"),
        }


def seed_captions(settings):
    return [f"seed {settings['seed'] + k}" for k in range(settings["num_images"])]


@dataclass(frozen=True)
class Easel:
    """The widgets of a tab that draws: where to begin and end, and where the result and what is told of it appear."""

    run: gr.Button
    stop: gr.Button
    status: gr.Textbox
    result: gr.Gallery | gr.Label

    def connect(self, studio, take_order, inputs, *also):
        """What the button does, and each of the other triggers: draw what `take_order` makes of the inputs' values."""

        def draw(*values):
            for shown, text in studio.draw(lambda: take_order(*values)):
                yield gr.skip() if shown is None else shown, text

        event = gr.on(
            [self.run.click, *also], draw, inputs, [self.result, self.status],
            concurrency_id="model", concurrency_limit=1, show_progress_on=self.status, show_progress="minimal",
            api_visibility="private",
        )  # fmt: skip
        self.stop.click(lambda: "stopped", outputs=self.status, cancels=[event], queue=False, api_visibility="private")


def buttons(name):
    """The two buttons of a tab: run, stop."""
    with gr.Row():
        return gr.Button(name, variant="primary", min_width=80, scale=2), gr.Button("Stop", min_width=80, scale=1)


def status_line():
    return gr.Textbox(label="Status", lines=1, max_lines=6, interactive=False, placeholder="nothing drawn yet")


def gallery(label="Pictures"):
    """Pictures side by side, as many as fit; see app.CSS."""
    return gr.Gallery(
        label=label, show_label=False, format="png", object_fit="contain", interactive=False,
        buttons=["download", "fullscreen"],
    )  # fmt: skip

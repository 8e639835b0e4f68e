"""The tab where a part of a picture is painted over, and drawn anew."""

import gradio as gr
from PIL import Image, ImageChops

from ..data.images import square
from ..errors import UserError
from . import limits, parts
from .drawing import Order

SIDE = 320  # of the canvas: fits a phone


def build(studio):
    gr.Markdown("Upload a picture, paint over what is to be drawn anew, and say what the whole picture is to show.")
    with gr.Row():
        with gr.Column():
            upload = gr.UploadButton("Upload a picture", file_types=["image"])
            canvas = gr.ImageEditor(
                square(parts.read_upload(parts.PHOTO), SIDE), label="Paint here", type="pil", sources=(), transforms=(),
                layers=False, format="png", buttons=[],
                brush=gr.Brush(default_size=40, colors=["#ff3b30"], default_color="#ff3b30", color_mode="fixed"),
                canvas_size=(SIDE, SIDE), fixed_canvas=True,
            )  # fmt: skip
            prompt = parts.prompt_box("What the whole picture shows", "empty: what it shows now")
            run, stop = parts.buttons("Inpaint")
            knobs = parts.Knobs(studio.model)
        with gr.Column():
            easel = parts.Easel(run, stop, parts.status_line(), parts.gallery())
    upload.upload(laid_out, upload, canvas, show_progress="hidden", api_visibility="private")

    def take_order(painted, text, *values):
        image, mask = picture_and_mask(painted)
        text, settings = limits.prompt(text), knobs.read(*values)
        return Order(
            lambda callback: studio.model.inpaint(image, mask, text, callback=callback, **settings),
            parts.seed_captions(settings),
            [text] if text else [],
        )

    easel.connect(studio, take_order, [canvas, prompt, *knobs.widgets], prompt.submit)


def laid_out(path):
    """An uploaded file as the square that the model sees of it, for the canvas; no change where it cannot be read."""
    image = parts.shown_upload(path)
    return gr.skip() if image is None else square(image, SIDE)


def picture_and_mask(painted):
    """What the editor holds -> the picture in RGB, and a mask in mode L, white where any layer was painted.

    painted: None, or {"background": PIL image or None, "layers": RGBA images}.

    Raises:
        UserError: no picture, or nothing painted.
    """
    background = painted and painted["background"]
    if background is None:
        raise UserError("no picture: upload one first")
    mask = Image.new("L", background.size)
    for layer in painted["layers"]:
        mask = ImageChops.lighter(mask, layer.getchannel("A").resize(mask.size))
    if mask.getextrema()[1] == 0:
        raise UserError("nothing is painted: paint over what is to be drawn anew")
    return background.convert("RGB"), mask.point(lambda alpha: 255 * (alpha > 127))

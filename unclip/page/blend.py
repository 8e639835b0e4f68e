"""The tab that leads from one picture or prompt to another."""

import gradio as gr

from ..errors import UserError
from . import limits, parts
from .drawing import Order


def build(studio):
    gr.Markdown("A way from one thing to another, each a prompt or a picture. Where both are given, the picture counts.")
    with gr.Row():
        with gr.Column():
            with gr.Row():
                first, last = [side(name) for name in ("From", "To")]
            run, stop = parts.buttons("Blend")
            knobs = parts.Knobs(studio.model, "num_frames", 7, parts.inversion_steps(studio.model))
        with gr.Column():
            easel = parts.Easel(run, stop, parts.status_line(), parts.gallery("Frames"))

    def take_order(from_text, from_path, to_text, to_path, *values):
        settings = knobs.read(*values)
        items = [item("From", from_text, from_path), item("To", to_text, to_path)]
        frames = settings["num_frames"]
        return Order(
            lambda callback: studio.model.blend(items, callback=callback, **settings),
            [f"{k / (frames - 1):.0%}" for k in range(frames)],
            [each for each in items if isinstance(each, str)],
        )

    easel.connect(studio, take_order, [*first, *last, *knobs.widgets])


def side(name):
    """The two widgets of one end: a prompt, a picture."""
    with gr.Column(min_width=160):
        return parts.prompt_box(f"{name}: words"), parts.picture_input(f"{name}: or a picture")


def item(name, text, path):
    """One end of the way: a PIL image, or a prompt. Raises UserError where there is neither."""
    if path:
        return parts.picture_of(path)
    text = limits.prompt(text, f'"{name}"')
    if not text:
        raise UserError(f'"{name}" is empty: write words, or upload a picture')
    return text

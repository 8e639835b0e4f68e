"""The tab that draws pictures for a prompt."""

import gradio as gr

from . import limits, parts
from .drawing import Order

EXAMPLES = [
    "a photo of a dog", "a photo of a cat", "a lion", "a school bus", "a lighthouse by the sea", "a pizza",
    "a ladybug", "a snowy mountain",
]  # fmt: skip


def build(studio):
    with gr.Row():
        with gr.Column():
            prompt = parts.prompt_box("What to draw")
            run, stop = parts.buttons("Draw")
            gr.Examples([[e] for e in EXAMPLES], prompt, label="Try one", cache_examples=False, api_visibility="private")
            knobs = parts.Knobs(studio.model)
        with gr.Column():
            easel = parts.Easel(run, stop, parts.status_line(), parts.gallery())

    def take_order(text, *values):
        text, settings = limits.prompt(text), knobs.read(*values)
        return Order(
            lambda callback: studio.model(text, callback=callback, **settings), parts.seed_captions(settings), [text]
        )

    easel.connect(studio, take_order, [prompt, *knobs.widgets], prompt.submit)

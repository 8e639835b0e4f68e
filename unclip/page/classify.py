"""The tab that names a picture, without training for it."""

import gradio as gr

from ..zero_shot import TEMPLATES, ZeroShotClassifier
from . import limits, parts
from .drawing import Order

NAMES = "dog, cat, lion, bird, car, bus, pizza, mountain"


def build(studio):
    gr.Markdown("CLIP says which of your words are nearest to a picture.")
    with gr.Row():
        with gr.Column():
            picture = parts.picture_input()
            names = gr.Textbox(NAMES, label="Class names", info="one a line, or separated by commas", lines=3, max_lines=8)
            run, stop = parts.buttons("Classify")
        with gr.Column():
            status = parts.status_line()
            easel = parts.Easel(run, stop, status, gr.Label(label="How likely", num_top_classes=10))

    def take_order(path, text):
        image, words = parts.picture_of(path), limits.class_names(text)
        return Order(lambda callback: likelihoods(studio.model.clip, image, words))

    easel.connect(studio, take_order, [picture, names])


def likelihoods(clip, image, names):
    """{name: probability} of a PIL image."""
    return dict(zip(names, ZeroShotClassifier(clip, names, TEMPLATES).probabilities([image])[0].tolist()))

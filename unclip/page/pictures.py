"""The tabs that begin with one picture: variations, image-to-image, edit."""

import gradio as gr

from . import limits, parts
from .drawing import Order


def variations(studio):
    gr.Markdown("Other pictures of what a picture shows.")
    with gr.Row():
        with gr.Column():
            picture = parts.picture_input()
            fidelity = gr.Slider(0, 1, 0, step=0.05, label="Fidelity", info="0: the same idea anew; 1: the picture itself")
            run, stop = parts.buttons("Vary")
            knobs = parts.Knobs(studio.model, steps=parts.inversion_steps(studio.model))
        with gr.Column():
            easel = parts.Easel(run, stop, parts.status_line(), parts.gallery())

    def take_order(path, fidelity, *values):
        image, settings = parts.picture_of(path), knobs.read(*values)
        return Order(
            lambda callback: studio.model.vary(image, fidelity=fidelity, callback=callback, **settings),
            parts.seed_captions(settings),
        )

    easel.connect(studio, take_order, [picture, fidelity, *knobs.widgets])


def image_to_image(studio):
    gr.Markdown("A picture is noised, and drawn anew from there, to a prompt.")
    with gr.Row():
        with gr.Column():
            picture = parts.picture_input()
            prompt = parts.prompt_box("What to make of it", "empty: what the picture shows")
            strength = gr.Slider(0.05, 1, 0.6, step=0.05, label="Strength", info="how much is new; 1: all of it")
            run, stop = parts.buttons("Redraw")
            knobs = parts.Knobs(studio.model)
        with gr.Column():
            easel = parts.Easel(run, stop, parts.status_line(), parts.gallery())

    def take_order(path, text, strength, *values):
        image, text, settings = parts.picture_of(path), limits.prompt(text), knobs.read(*values)
        return Order(
            lambda callback: studio.model.redraw(image, text, strength=strength, callback=callback, **settings),
            parts.seed_captions(settings),
            [text] if text else [],
        )

    easel.connect(studio, take_order, [picture, prompt, strength, *knobs.widgets], prompt.submit)


def edit(studio):
    gr.Markdown("A picture is led from what it is towards something else, further from frame to frame.")
    with gr.Row():
        with gr.Column():
            picture = parts.picture_input()
            base = parts.prompt_box("What it is", "a photo", "a photo")
            caption = parts.prompt_box("What it is to become", "a photo of a lion")
            strength = gr.Slider(0, 1, 0.4, step=0.05, label="Strength", info="how far the last frame goes")
            run, stop = parts.buttons("Edit")
            knobs = parts.Knobs(studio.model, "num_frames", 5, parts.inversion_steps(studio.model))
        with gr.Column():
            easel = parts.Easel(run, stop, parts.status_line(), parts.gallery("Frames"))

    def take_order(path, base, caption, strength, *values):
        base, caption, settings = limits.prompt(base), limits.prompt(caption), knobs.read(*values)
        image, last = parts.picture_of(path), settings["num_frames"] - 1
        return Order(
            lambda callback: studio.model.edit(
                image, caption, base=base, strength=strength, callback=callback, **settings
            ),
            [f"{strength * k / last:.0%}" for k in range(last + 1)],
            [base, caption],
        )  # fmt: skip

    easel.connect(studio, take_order, [picture, base, caption, strength, *knobs.widgets], caption.submit)

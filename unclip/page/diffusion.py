"""The tab that shows what diffusion does: a picture into noise, and noise into a picture."""

import gradio as gr

from ..data.images import read_image, to_pil
from ..diffusion_demo import COLUMNS, caption, evenly, forward, reverse
from ..manipulations import pixels
from . import limits, parts
from .drawing import Order

FORWARD = """**There.** Noise is added to a picture: x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise. At the last t
nothing of it is left. The model has learned to tell from x_t what was there."""
BACK = """**And back.** From noise alone, step by step, the model draws a prompt's picture: x_t, as far as it is, and
x_0-hat, what the model thinks at this step that it will become."""
SEED = 0


def build(studio):
    with gr.Row():
        with gr.Column():
            gr.Markdown(FORWARD)
            picture = parts.picture_input(value=read_image(parts.PHOTO))
            there = parts.Easel(*parts.buttons("Add noise"), parts.status_line(), parts.gallery("x_t"))
        with gr.Column():
            gr.Markdown(BACK)
            prompt = parts.prompt_box("What to draw", value="a photo of a dog")
            steps = parts.steps_slider(studio.model)
            seed = parts.seed_box()
            back = parts.Easel(*parts.buttons("Draw from noise"), parts.status_line(), parts.gallery("x_t, x_0-hat"))

    def there_order(path):
        image = parts.picture_of(path)
        return Order(lambda callback: way_there(studio.model, image))

    def back_order(text, steps, seed):
        text, steps, seed = limits.prompt(text), parts.steps_of(steps), parts.seed_of(seed)
        return Order(lambda callback: way_back(studio.model, text, steps, seed, callback), prompts=[text])

    there.connect(studio, there_order, [picture])
    back.connect(studio, back_order, [prompt, steps, seed], prompt.submit)


def way_there(model, image):
    """A PIL image noised more and more: pairs of a PIL image and its t and alpha_bar."""
    schedule, x_0 = model.decoder.schedule, pixels(image, model.decoder.image_size)
    timesteps = evenly(-1, schedule.num_timesteps - 1, COLUMNS)
    return [(to_pil(x_t)[0], described(schedule, t)) for t, x_t in forward(schedule, x_0, timesteps, SEED)]


def way_back(model, prompt, steps, seed, callback):
    """Some steps of the decoder from noise to a picture: for each x_t and x_0-hat, and last the picture, each a pair of a
    PIL image and what it is."""
    *way, last = reverse(model, prompt, seed, model.settings(num_inference_steps=steps), callback)
    shown = []
    for t, x_t, x_0 in (way[k] for k in evenly(0, steps - 1, COLUMNS)):
        shown += [(to_pil(x_t)[0], f"x_t: {described(model.decoder.schedule, t)}"), (to_pil(x_0)[0], "x_0-hat")]
    return [*shown, (to_pil(last[1])[0], "the picture")]


def described(schedule, t):
    return ", ".join(caption(schedule, t))

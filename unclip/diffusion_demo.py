"""What the forward and the reverse process do, as pictures: what `scripts/diffusion_demo.py` writes.

Captions count as the papers do: t = 0 is the clean picture, t = T is noise (the code's t is one less).
"""

import torch
from PIL import Image, ImageDraw, ImageFont

from .cli import device_of, output_folder
from .data.images import read_image, to_pil
from .diffusion import SeededNoise, process
from .manipulations import pixels
from .outputs import SIDE, enlargement, write_gif, write_png
from .pipeline import UnCLIP
from .prompts import checked
from .seeds import seeds_from

COLUMNS = 8
GIF_FRAMES = 40
FONT_SIZE, GAP, MARGIN = 13, 6, 58


def diffusion_demo(*, model_name, prompt, image, steps, seed, out, device):
    """Write forward.png, forward.gif, reverse.png and reverse.gif, and print their paths.

    image: a picture file for the forward process; prompt: for the reverse process.

    Raises:
        UserError: bad input; nothing is written.
    """
    (prompt,), (seed,), out = checked(prompt), seeds_from(seed, 1), output_folder(out)
    photograph = read_image(image)
    model = UnCLIP.from_pretrained(model_name, device=device_of(device))
    settings = model.settings(num_inference_steps=steps)
    schedule, size = model.decoder.schedule, model.decoder.image_size
    x_0 = pixels(photograph, size)
    way_back = reverse(model, prompt, seed, settings)

    def frames(count):
        return forward(schedule, x_0, evenly(-1, schedule.num_timesteps - 1, count), seed)

    picked = [way_back[i] for i in evenly(0, len(way_back) - 1, COLUMNS)]
    write_strip(out / "forward.png", frames(COLUMNS), ["x_t"], schedule)
    write_film(out / "forward.gif", frames(GIF_FRAMES), ["x_t"], schedule)
    write_strip(out / "reverse.png", picked, ["x_t", "x_0-hat"], schedule)
    write_film(out / "reverse.gif", way_back, ["x_t", "x_0-hat"], schedule)


def forward(schedule, x_0, timesteps, seed):
    """x_0 (1, 3, S, S) noised to each timestep, always with the same noise: a list of (t, x_t); t = -1 is x_0."""
    eps = SeededNoise([seed])(x_0.shape)
    return [(t, process.q_sample(schedule, x_0, t, eps)) for t in timesteps]


def reverse(model, prompt, seed, settings, callback=None):
    """The model's way from noise to a base picture: a list of (t, x_t, x_0-hat), the picture last, as t = -1.

    callback: see `UnCLIP.__call__`.
    """
    timesteps, seen = model.decoder.timesteps(settings.num_inference_steps).tolist(), []

    def keep(step):
        if callback is not None:
            callback(step)
        if step.stage == "base":
            seen.append((timesteps[step.index], step.x_t.cpu(), step.prediction.x_0.cpu()))

    one = settings.model_copy(update={"stop_after": "base", "num_samples": 1})
    picture = model.sample(prompt, 1, seed, one, callback=keep)
    return [*seen, (-1, picture, picture)]


def evenly(first, last, count):
    """At most `count` whole numbers from first to last, both included, evenly spaced."""
    return sorted({round(first + (last - first) * k / (count - 1)) for k in range(count)})


def caption(schedule, t):
    return f"t = {t + 1}", f"alpha_bar {schedule.alpha_bar_at(t).item():.3g}"


def write_strip(path, frames, labels, schedule):
    """A PNG with a column a frame (t, tensor, ...), a row a tensor, and t and alpha_bar beneath."""
    columns = [cell(frame, schedule) for frame in frames]
    width, height = columns[0].size
    sheet = Image.new("RGB", (MARGIN + len(columns) * (width + GAP), height), "white")
    for k, column in enumerate(columns):
        sheet.paste(column, (MARGIN + k * (width + GAP), 0))
    label_rows(sheet, labels, width)
    write_png(sheet, path)
    print(path)


def write_film(path, frames, labels, schedule):
    """An animation of the frames (t, tensor, ...), the first and the last one held."""
    cells = []
    for frame in frames:
        picture = cell(frame, schedule)
        sheet = Image.new("RGB", (MARGIN + picture.width, picture.height), "white")
        sheet.paste(picture, (MARGIN, 0))
        label_rows(sheet, labels, picture.width)
        cells.append(sheet)
    write_gif(cells, path)
    print(path)


def cell(frame, schedule):
    """One frame: its tensors (1, 3, S, S) one above the other, enlarged pixel by pixel, above their caption."""
    t, *tensors = frame
    pictures = to_pil(torch.cat(tensors))
    side = pictures[0].width * enlargement(pictures[0])
    lines = caption(schedule, t)
    sheet = Image.new("RGB", (max(side, SIDE), len(pictures) * (side + GAP) + len(lines) * (FONT_SIZE + 4)), "white")
    for row, picture in enumerate(pictures):
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (0, row * (side + GAP)))
    for k, line in enumerate(lines):
        place = (0, len(pictures) * (side + GAP) + k * (FONT_SIZE + 4))
        ImageDraw.Draw(sheet).text(place, line, "black", font())
    return sheet


def label_rows(sheet, labels, side):
    for row, label in enumerate(labels):
        ImageDraw.Draw(sheet).text((2, row * (side + GAP) + side // 2), label, "black", font())


def font():
    return ImageFont.load_default(FONT_SIZE)

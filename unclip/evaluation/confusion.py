"""A confusion matrix as a picture."""

import torch
from PIL import Image, ImageDraw, ImageFont

MAX_NAME = 28  # letters of a class name that are shown
NUMBERED, NAMED = 25, 400  # up to so many classes, the cells carry their per cent, the rows and columns their name
WHITE, DARK = torch.tensor([255.0, 255.0, 255.0]), torch.tensor([8.0, 48.0, 107.0])


def confusion_image(confusion, names):
    """Rows: what the pictures show; columns: what they were called; darker: a larger share of the row.

    Args:
        confusion: (C, C) counts; names: C strings.
    """
    count = len(names)
    cell = 40 if count <= NUMBERED else 20 if count <= 60 else 13 if count <= NAMED else 3
    font = ImageFont.load_default(size=min(16, max(cell, 13) - 2))
    small = ImageFont.load_default(size=13)
    shown = [n if len(n) <= MAX_NAME else f"{n[: MAX_NAME - 3]}..." for n in names] if count <= NAMED else ["    "]
    margin = max(round(font.getlength(n)) for n in shown) + 12
    title = 24
    origin = title + margin  # of the cells, in both directions: the title's strip, then the names
    side = origin + count * cell + 10

    share = confusion / confusion.sum(dim=1, keepdim=True).clamp(min=1)  # (C, C)
    colours = WHITE + share[..., None] * (DARK - WHITE)
    cells = Image.fromarray(colours.round().to(torch.uint8).numpy())
    cells = cells.resize((count * cell, count * cell), Image.Resampling.NEAREST)
    sheet = Image.new("RGB", (side, side), "white")
    sheet.paste(cells, (origin, origin))
    draw = ImageDraw.Draw(sheet)

    # The names of the columns read upwards: they are written on a strip, which is then turned against the clock.
    strip = Image.new("RGB", (margin, count * cell), "white")
    upwards = ImageDraw.Draw(strip)
    for k, name in enumerate(shown):
        middle = k * cell + cell / 2
        draw.text((origin - 6, origin + middle), name, "black", font, anchor="rm")
        upwards.text((6, middle), name, "black", font, anchor="lm")
    sheet.paste(strip.transpose(Image.Transpose.ROTATE_90), (origin, title))
    draw.text((origin + count * cell / 2, title / 2), "called", "black", small, anchor="mm")
    draw.text((title, origin - 8), "shows", "black", small, anchor="ls")
    draw.rectangle((origin - 1, origin - 1, origin + count * cell, origin + count * cell), outline="gray")
    if count <= NUMBERED:
        for row in range(count):
            for column in range(count):
                per_cent = round(100 * share[row, column].item())
                if per_cent:
                    at = (origin + column * cell + cell / 2, origin + row * cell + cell / 2)
                    draw.text(at, str(per_cent), "white" if per_cent > 50 else "black", small, anchor="mm")
    return sheet

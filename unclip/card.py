"""What `scripts/card.py` does: the pictures of a model's card, drawn anew, so that they show the weights that are there."""

from PIL import Image
from tqdm import tqdm

from .cli import output_folder
from .data.images import grid, read_image, square
from .explore import counts_of, embedded, several
from .generate import load_model
from .hub import PHOTOS
from .latents import principal_components
from .outputs import enlargement, write_png
from .prompts import read_prompts

GRID_COLUMNS, STAGE_COLUMNS = 6, 8
DOG, LEMON = "a photo of a dog", "a photo of a lemon"
FIDELITIES = (0.0, 0.5, 0.75, 1.0)


def card(*, prompt_file, pictures, model_name, out, device):
    """Draw and write grid.png, stages.png and a strip for each way to edit a picture; print their paths. All of seed 0, the
    blend of 3; nothing is selected.

    prompt_file: a prompt a line, for the grid; pictures: a folder for the principal components, which are left out without.

    Raises:
        UserError: bad input; nothing is written.
    """
    prompts, out = read_prompts(prompt_file), output_folder(out)
    paths = several(pictures) if pictures else []
    cat, mask = read_image(PHOTOS / "cat.jpg"), read_image(PHOTOS / "cat-mask.png", "black")
    model = load_model(model_name, device, "float32", False)

    drawn = model(prompts)
    few = range(0, len(prompts), max(1, len(prompts) // STAGE_COLUMNS))[:STAGE_COLUMNS]

    def stages():  # a row each, enlarged to the last one's size
        rows = [model([prompts[k] for k in few], stop_after=stage) for stage in model.stages[:-1]]
        size = drawn[0].size
        return [image.resize(size, Image.Resampling.NEAREST) for row in rows for image in row] + [drawn[k] for k in few]

    def spread():
        _, by_prior, by_decoder = model.spread(DOG, num_images=8)
        return by_prior + by_decoder

    def components():
        axes = principal_components(embedded(model, paths))
        return [*model.components(cat, axes, counts_of(model, paths)), square(cat, model.side(model.defaults))]

    sheets = {
        "grid": (lambda: drawn, min(GRID_COLUMNS, len(prompts))),
        "stages": (stages, len(few)),
        "vary": (lambda: [model.vary(cat, num_images=1, fidelity=each)[0] for each in FIDELITIES], None),
        "blend": (lambda: model.blend([cat, LEMON], seed=3), None),
        "text": (lambda: model.edit(cat, "a dark photo", strength=0.3), None),
        "inpaint": (lambda: model.inpaint(cat, mask, LEMON), None),
        "redraw": (lambda: model.redraw(cat, LEMON, strength=0.8), None),
        "spread": (spread, 8),
    }
    if paths:
        sheets["components"] = (components, None)
    for name, (draw, columns) in tqdm(sheets.items(), desc="drawing", leave=False):
        images = draw()
        write_png(grid(images, columns or len(images), enlargement(images[0])), out / f"{name}.png", model=str(model_name))
    print("\n".join(str(out / f"{name}.png") for name in sheets))

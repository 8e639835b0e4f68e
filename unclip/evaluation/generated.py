"""What `scripts/evaluate.py` does: pictures for known concepts, named again by zero-shot CLIP classification."""

import json
import math

from tqdm import tqdm

from ..cli import device_of
from ..data.images import grid
from ..errors import UserError
from ..files import new_file, read_lines
from ..hub import any_clip
from ..zero_shot import TEMPLATES, ZeroShotClassifier, fill
from .outputs import output_file

PROMPT = "a photo of {a}"


def draw_and_name(model, concepts, num_images, seed, settings, judge, pretrained, json_file, grid_file, device):
    """Draw pictures evenly over concepts and count how often the judge names the concept among all of them.

    Args:
        concepts: a file, one a line. num_images: in all; rounded up to the same number for each concept.
        settings: see `pipeline.Settings`; judge, pretrained: a CLIP, as in `any_clip`; None: the model's own.

    Raises:
        UserError: bad input; says what to do.
    """
    from ..pipeline import UnCLIP

    names = read_lines(concepts)
    if len(names) < 2 or num_images < 1:
        raise UserError("an evaluation needs at least two concepts and one picture")
    json_file, grid_file = output_file(json_file, "--json"), output_file(grid_file, "--grid")
    device = device_of(device)
    model_name, model = model, UnCLIP.from_pretrained(model, device=device)
    settings = model.settings(**settings)
    clip = any_clip(judge, pretrained, device) if judge else model.clip
    classifier = ZeroShotClassifier(clip, names, TEMPLATES)
    each = math.ceil(num_images / len(names))
    pictures, batches = [], []
    for label, name in enumerate(tqdm(names, desc="drawing", unit="concept", leave=False)):
        drawn = model(fill(PROMPT, name), num_images=each, seed=seed, **settings.model_dump())
        pictures += drawn
        batches.append((drawn, [label] * each))
    scores = classifier.evaluate(batches)
    low, high = wilson(scores.top1, scores.num_images)
    report = {
        "model": str(model_name), "judge": str(judge or "the model's own CLIP"), "seed": seed,
        "settings": settings.model_dump(), "interval95": [low, high], **scores.summary(),
    }  # fmt: skip
    print(f"{scores.num_images} pictures of {len(names)} concepts, seed {seed}, {settings.model_dump()}")
    print(f"named right: {scores.top1:.1%} (95% interval {low:.1%} to {high:.1%}), within five: {scores.top5:.1%}")
    worst = sorted(scores.recalls.items(), key=lambda item: item[1])
    print("least often: " + ", ".join(f"{names[k]} {recall:.0%}" for k, recall in worst[:8]))
    if json_file:
        with new_file(json_file) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if grid_file:
        with new_file(grid_file) as temporary:
            grid(pictures, each, scale=max(1, 64 // pictures[0].width)).save(temporary, "PNG")
        print(grid_file)


def wilson(share, count, z=1.96):
    """The 95% interval of a share seen in `count` independent draws (Wilson 1927)."""
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return centre - half, centre + half

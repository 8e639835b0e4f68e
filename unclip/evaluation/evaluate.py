"""What `scripts/evaluate.py` does: a model, or a folder of pictures, against real ones, in figures and plots."""

import torch

from ..cli import device_of
from ..data.captions import ClassCaptions
from ..errors import UserError
from ..files import read_lines
from ..generate import output_folder
from ..hub import any_clip
from ..pipeline import UnCLIP
from ..zero_shot import TEMPLATES, ZeroShotClassifier
from .features import ClipFeatures, features_by
from .judge import Judge
from .pictures import brief_of_captions, brief_of_concepts, is_shards, pictures_of_folder, real_pictures
from .prior import prior_figures
from .report import write_report
from .said import checked_words, said_figures
from .sweep import parse_sweeps

PRIOR_PICTURES = 1000  # real pictures at most whose captions the prior is asked about
MIN_PICTURES = 6  # density and coverage look at five neighbours


def evaluate(
    *, model_name, images, data, split, concepts, say, num_images, seed, settings, judge, features, pretrained, sweeps,
    rounds, with_prior, out, device,
):  # fmt: skip
    """Judge pictures, write OUT/report.json, report.md, sheet.png and a curve a sweep, and print the table.

    Args:
        model_name: the model that draws; images: a folder of pictures to judge in its place.
        data: the real pictures: a folder of shards, whose captions or classes are drawn, or a plain folder of pictures;
            None: no comparison. split: of the shards. concepts: a file, one a line, to draw in place of those.
        say: words whose effect in a prompt is measured, see said.py.
        num_images: to draw in all; rounded up to as many for each prompt.
        settings: of `pipeline.Settings`; sweeps: strings "SETTING=VALUE,VALUE,...", of the same.
        judge: the CLIP that says how true pictures are to their prompts; None: the model's own. features: in what the
            distances are taken; None: the judge's; pretrained: the tag of both.
        rounds: of the bootstrap; with_prior: judge the prior as well.

    Raises:
        UserError: bad input; says what to do. What was drawn is then lost, so all that can be known is looked at first.
    """
    if num_images < 1 or rounds < 2:
        raise UserError("an evaluation needs at least one picture (--num-images) and two rounds (--rounds)")
    if not data and not concepts and not images:
        raise UserError("nothing to draw: give --data, a folder of real pictures, or --concepts, a file of names")
    if images and (sweeps or say):
        raise UserError("--sweep and --say draw with other settings, and --images are drawn already: leave one out")
    names, words = concept_names(concepts) if concepts else None, checked_words(say)
    out, device = output_folder(out), device_of(device)
    model = UnCLIP.from_pretrained(model_name, device=device)
    settings, sweeps = model.settings(**settings), parse_sweeps(sweeps, model)
    ready = pictures_of_folder(images) if images else None
    side = ready.images.shape[-1] if ready else model.side(settings)
    real, classes = None, None
    if data:
        real = real_pictures(data, split, side)
        if real.labels is not None:
            classes = ClassCaptions.of_folder(data)
    brief = brief_of(names, classes, real, num_images) if ready is None else None
    if words and names is None and classes is None:
        raise UserError("--say needs concepts to say a word of: give --concepts, a file with a name a line")
    if real is not None:
        check_counts(real, len(ready) if ready else num_images)

    clip = any_clip(judge, pretrained, device) if judge else model.clip
    eyes = features_by(features, pretrained, device) if features else ClipFeatures(clip, judge or "the model's own CLIP")
    judged = Judge(clip, eyes, classifier_of(clip, names, classes))
    reference, other, everything = None, None, None
    if real is not None:
        everything = judged.look(real)
        reference, other = halves(everything, len(ready) if ready else brief.count(num_images), seed)

    def measure(seen):
        return judged.by_prompt(seen, seed) | judged.against(seen, reference, seed, rounds)

    drawn = ready or brief.draw(model, num_images, seed, settings)
    seen = judged.look(drawn)
    report = {
        "model": None if images else str(model_name), "images": images and str(images), "data": data and str(data),
        "judge": str(judge or "the model's own CLIP"), "features": eyes.name, "seed": seed, "side": side,
        "settings": None if images else settings.model_dump(), "num_images": len(drawn),
        "num_compared": len(reference.pictures) if reference else 0,
        "pictures": measure(seen), "named": judged.by_class(seen), "sweeps": [],
    }  # fmt: skip
    if reference:
        known = names is None  # whether the real pictures' labels are those of the classifier
        report["real"] = (judged.by_prompt(other, seed) if known else {}) | judged.against(other, reference, seed, rounds)
    if words:
        spoken = (names, ()) if names is not None else ([n[0] for n in classes.names], classes.no_article)
        report["said"] = said_figures(model, *spoken, words, num_images, seed, settings)
    own = None
    if with_prior and not images and real is not None and real.prompts is not None:
        same = judged.clip is model.clip
        own = everything if same else Judge(model.clip, ClipFeatures(model.clip, model_name)).look(real)
        own = shuffled(own, PRIOR_PICTURES, seed)
        namer = judged.classifier if same and names is None else classifier_of(model.clip, None, classes)
        report["prior"] = prior_figures(model, own, settings, namer, seed)
    for sweep in sweeps:
        points = []
        for value in sweep.values:
            changed = model.settings(**{**settings.model_dump(), sweep.setting: value})
            pictures = brief.draw(model, num_images, seed, changed, f"{sweep.setting}={value}")
            points.append({"value": value, "pictures": measure(judged.look(pictures))})
            if own and sweep.setting.startswith("prior_"):
                points[-1]["prior"] = prior_figures(model, own, changed, namer, seed)
        report["sweeps"].append({"setting": sweep.setting, "points": points})
    write_report(out, report, drawn)


def halves(seen, count, seed):
    """Two sets of `count` of what was seen, at random and apart; of half of it each where there is not enough."""
    count = min(count, len(seen.pictures) // 2)
    both = shuffled(seen, 2 * count, seed)
    return both.take(torch.arange(count)), both.take(torch.arange(count, 2 * count))


def shuffled(seen, count, seed):
    """`count` of what was seen at most, at random."""
    return seen.take(torch.randperm(len(seen.pictures), generator=torch.Generator().manual_seed(seed))[:count])


def concept_names(path):
    names = read_lines(path)
    if len(names) < 2:
        raise UserError(f"{path} holds {len(names)} concept(s): an evaluation needs at least two")
    return names


def brief_of(names, classes, real, num_images):
    """What is to be drawn: concepts of a file, or the classes or the captions of the real pictures.

    Raises:
        UserError: none of them.
    """
    if names is not None:
        return brief_of_concepts(names)
    if classes is not None:
        return brief_of_concepts([names[0] for names in classes.names], classes.no_article)
    if real.prompts is None:
        raise UserError("a plain folder of pictures has no captions: give --concepts, a file with a name a line")
    return brief_of_captions(real, num_images)


def classifier_of(clip, names, classes):
    """Who names the pictures: by a file's concepts, or by the first names of classes; None where there are neither."""
    if names is not None:
        return ZeroShotClassifier(clip, names, TEMPLATES)
    if classes is not None:
        return ZeroShotClassifier(clip, [n[0] for n in classes.names], TEMPLATES, classes.no_article)
    return None


def check_counts(real, count):
    """Raises UserError where there are too few pictures for the metrics."""
    if count < MIN_PICTURES:
        raise UserError(f"{count} pictures are too few to compare: it takes {MIN_PICTURES} at least, and 2,000 to say much")
    if len(real) < 2 * MIN_PICTURES:
        raise UserError(f"{len(real)} real pictures are too few: it takes two halves of {MIN_PICTURES} at least")

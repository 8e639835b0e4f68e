"""What `scripts/evaluate.py` does: a model, or a folder of pictures, against real ones, in figures and plots."""

from dataclasses import dataclass, field
from functools import cached_property

import torch

from ..cli import device_of, output_folder
from ..data.captions import ClassCaptions
from ..errors import UserError
from ..files import read_lines
from ..generate import load_model
from ..hub import any_clip
from ..seeds import seeds_from
from ..zero_shot import TEMPLATES, ZeroShotClassifier
from .curves import write_curve
from .features import ClipFeatures, features_by
from .judge import Judge
from .pictures import brief_of_captions, brief_of_concepts, brief_of_pictures, pictures_of_folder, real_pictures, shuffled
from .prior import prior_figures
from .report import FILES, markdown, write_report, write_sheet
from .said import checked_words, said_figures
from .sweep import parse_sweeps

PRIOR_PICTURES = 1000  # real pictures at most whose captions the prior is asked about
MIN_PICTURES = 6  # density and coverage look at five neighbours


@dataclass
class Request:
    """What is asked for.

    model: that draws; images: a folder of pictures to judge in its place.
    data: the real pictures: a folder of shards, whose classes or captions are drawn, or a plain folder of pictures; None:
        no comparison. split: of the shards. all_real: compare with all of them, as published FIDs do, and not with as many as
        are drawn; their own other half, the floor, is not measured then. concepts: a file, one a line, to draw in place of those.
    true_embeddings: draw from the embeddings of real pictures (none of those that are compared with) and not from the
        prior's: what the decoder alone can do.
    num_images: to draw in all; rounded up to as many for each prompt. settings: fields of `pipeline.Settings`.
    say: words whose effect in a prompt is measured, see said.py. sweeps: strings "SETTING=VALUE,VALUE,...".
    judge, judge_pretrained: the CLIP that says how true pictures are to their prompts; None: the model's own.
    features, features_pretrained: in what the distances are taken; None: the judge's.
    rounds: of the bootstrap; with_prior: judge the prior as well. out: the folder for the report.
    device, dtype: where and in what pictures are drawn; CLIPs stay in float32.
    """

    model: str = "pocket"
    images: str = None
    data: str = None
    split: str = "test"
    all_real: bool = False
    concepts: str = None
    true_embeddings: bool = False
    num_images: int = 200
    seed: int = 0
    settings: dict = field(default_factory=dict)
    say: list = field(default_factory=list)
    sweeps: list = field(default_factory=list)
    judge: str = None
    judge_pretrained: str = None
    features: str = None
    features_pretrained: str = None
    rounds: int = 100
    with_prior: bool = True
    out: str = "outputs/evaluation"
    device: str = "auto"
    dtype: str = "float32"

    def check(self):
        """Raises UserError for a request that contradicts itself."""
        if self.num_images < 1:
            raise UserError(f"--num-images {self.num_images}: an evaluation needs one picture at least")
        if self.rounds < 2:
            raise UserError(f"--rounds {self.rounds}: an interval needs two rounds at least")
        if self.images and not self.data:
            raise UserError("--images need real pictures to be compared with: give --data")
        if self.all_real and not self.data:
            raise UserError("--all-real needs real pictures: give --data")
        if self.true_embeddings and (not self.data or self.images or self.concepts or self.all_real):
            raise UserError("--true-embeddings are those of --data: leave --images, --concepts and --all-real out")
        if self.true_embeddings and any(sweep.startswith(("prior_", "num_samples")) for sweep in self.sweeps):
            raise UserError("--true-embeddings ask no prior and are drawn once: leave sweeps of its settings and num_samples out")
        if self.true_embeddings and (self.settings.get("num_samples") or 1) > 1:
            raise UserError("--true-embeddings are drawn once: leave --samples out")
        if self.images and (self.sweeps or self.say or self.concepts):
            raise UserError("--images are drawn already: leave --sweep, --say and --concepts out")
        if not self.data and not self.concepts:
            raise UserError("nothing to draw: give --data, a folder of real pictures, or --concepts, a file of names")


def evaluate(request):
    """Judge pictures, write OUT/report.json, report.md, sheet.png and a curve a sweep, and print the tables.

    What is measured is written at once, so that what ends an evaluation early costs no more than the part in hand.

    Raises:
        UserError: bad input; says what to do, before anything is drawn.
    """
    request.check()
    out = output_folder(request.out)
    bench = Bench(request)
    pictures = bench.pictures()
    seen = bench.judge.look(pictures)
    report = bench.facts(len(pictures)) | {"pictures": bench.measure(seen), "named": bench.judge.by_class(seen)}
    report["sweeps"] = []
    if bench.reference and not request.all_real:
        report["real"] = bench.floor()
    write_sheet(out, pictures)
    write_report(out, report)
    if bench.words:
        report["said"] = said_figures(
            bench.model, *bench.spoken, bench.words, request.num_images, request.seed, bench.settings
        )
        write_report(out, report)
    if bench.asks_prior:
        report["prior"] = bench.prior(bench.settings)
    write_report(out, report)
    curves = []
    for sweep in bench.sweeps:
        points = []
        report["sweeps"].append({"setting": sweep.setting, "points": points})
        for value in sweep.values:
            points.append(bench.point(sweep.setting, value, report))
            write_report(out, report)
        curves += write_curve(out / f"sweep-{sweep.setting}.png", report["sweeps"][-1])
    print(markdown(report))
    print("\n".join(map(str, [*(out / name for name in FILES), *curves])))


class Bench:
    """All that an evaluation needs, made ready once: the model, the judge, the real pictures and what is to be drawn."""

    def __init__(self, request):
        self.request, device = request, device_of(request.device)
        self.names, self.words = concepts_of(request.concepts), checked_words(request.say)
        self.model = load_model(request.model, request.device, request.dtype, offload=False)
        self.settings = self.model.settings(**request.settings)
        self.sweeps = parse_sweeps(request.sweeps, self.model, request.settings)
        self.ready = pictures_of_folder(request.images) if request.images else None
        self.side = self.ready.images.shape[-1] if self.ready else self.model.side(self.settings)
        self.real = real_pictures(request.data, request.split, self.side) if request.data else None
        labelled = self.real is not None and self.real.labels is not None
        self.classes = classes_of(request.data) if labelled else None
        self.spoken = (self.names, []) if self.names is not None else self.classes  # concepts, those without an article
        self.brief = None if self.ready else self._brief()
        self.count = len(self.ready) if self.ready else self.brief.count(request.num_images)
        seeds_from(request.seed, max(self.count, PRIOR_PICTURES))
        if self.real is not None:
            self._check_counts()
        if self.words and self.spoken is None:
            raise UserError("--say needs concepts to say a word of: give --concepts, a file with a name a line")
        clip = any_clip(request.judge, request.judge_pretrained, device) if request.judge else self.model.clip
        if request.features:
            features = features_by(request.features, request.features_pretrained, device)
        else:
            features = ClipFeatures(clip, self.judge_name)
        self.judge = Judge(clip.whole(), features, classifier_of(clip, self.spoken))  # what it lacks shows before the drawing
        if self.asks_prior and self.real.image_embed is None:
            self.real.embed(self.model.clip)

    @property
    def judge_name(self):
        return str(self.request.judge or f"the CLIP of {self.request.model}")

    def _brief(self):
        """What is to be drawn: real pictures anew, concepts of a file, or the classes or the captions of real pictures."""
        if self.request.true_embeddings:
            return brief_of_pictures(self._others())
        if self.spoken is not None:
            return brief_of_concepts(*self.spoken)
        if self.real.prompts is None:
            raise UserError("a plain folder of pictures has no captions: give --concepts, a file with a name a line")
        return brief_of_captions(self.real, self.request.num_images, self.request.seed)

    def _others(self):
        """Real pictures with their embeddings, apart from those of `halves` that are compared with."""
        if self.real.table is None:
            raise UserError("--true-embeddings need captions or classes: give a folder of shards as --data")
        self.real.embed(self.model.clip)
        return in_halves(self._apart(self.request.num_images))[1]

    def _apart(self, count):
        """Twice `count` real pictures at random, all at most, for `in_halves`."""
        return shuffled(self.real, 2 * min(count, len(self.real) // 2), self.request.seed)

    def _check_counts(self):
        if self.count < MIN_PICTURES:
            few = plural(self.count, "picture")
            raise UserError(f"{few} to compare are too few: it takes {MIN_PICTURES} at least, and 2,000 to say much")
        if len(self.real) < 2 * MIN_PICTURES:
            few = plural(len(self.real), "real picture")
            raise UserError(f"{few} to compare with are too few: it takes two halves of {MIN_PICTURES} at least")

    @cached_property
    def halves(self):
        """Two sets of real pictures, at random and apart, as many as are judged, or half of all where there are fewer."""
        return in_halves(self.judge.look(self._apart(self.count)))

    @cached_property
    def reference(self):
        """The real pictures that others are compared with; None without any."""
        if self.real is None:
            return None
        return self.judge.look(self.real) if self.request.all_real else self.halves[0]

    @property
    def asks_prior(self):
        return self.request.with_prior and not self.ready and self.real is not None and self.real.table is not None

    @property
    def num_real(self):
        return len(self.reference) if self.reference else 0

    @property
    def num_enlarged(self):
        """How many of the real pictures compared with were smaller than the others, and were enlarged to their side."""
        return int((self.reference.pictures.sides < self.side).sum()) if self.reference else 0

    def facts(self, num_images):
        """What the report says of itself."""
        request = self.request
        return {
            "model": None if request.images else str(request.model), "images": request.images and str(request.images),
            "data": request.data and str(request.data), "split": request.split if self.real is not None and self.real.table is not None else None,
            "concepts": request.concepts and str(request.concepts), "true_embeddings": request.true_embeddings, "judge": self.judge_name,
            "features": self.judge.features.name, "seed": request.seed, "rounds": request.rounds, "side": self.side,
            "num_images": num_images,
            "num_compared": min(num_images, self.num_real), "num_real": self.num_real, "num_enlarged": self.num_enlarged,
            "settings": None if request.images else self.model.used(self.settings),
            "dtype": None if request.images else request.dtype,
        }  # fmt: skip

    def pictures(self, settings=None, desc="drawing"):
        """The pictures that are judged."""
        if self.ready:
            return self.ready
        return self.brief.draw(self.model, self.request.num_images, self.request.seed, settings or self.settings, desc)

    def measure(self, seen):
        """The figures of what was seen: {name: Figure}."""
        seed, rounds = self.request.seed, self.request.rounds
        figures = self.judge.by_prompt(seen, seed, rounds)
        return figures | (self.judge.against(seen, self.reference, seed, rounds) if self.reference else {})

    def floor(self):
        """The same figures of the other half of the real pictures: no model can be expected to do better."""
        reference, other = self.halves
        known = self.names is None  # whether the labels of real pictures are those of the classifier
        named = self.judge.by_prompt(other, self.request.seed, self.request.rounds) if known else {}
        return named | self.judge.against(other, reference, self.request.seed, self.request.rounds)

    def prior(self, settings):
        """The figures of the prior with these settings."""
        asked = shuffled(self.real, PRIOR_PICTURES, self.request.seed)
        return prior_figures(self.model, asked, settings, self._own_classifier, self.request.seed, self.request.rounds)

    @cached_property
    def _own_classifier(self):
        own = self.judge.clip is self.model.clip and self.names is None
        return self.judge.classifier if own else classifier_of(self.model.clip, self.classes)

    def point(self, setting, value, report):
        """The figures at one value of a sweep; those of the report where its settings have that value."""
        changed = self.model.settings(**{**self.request.settings, setting: value})
        if changed == self.settings:
            parts = ("pictures", "prior") if setting.startswith("prior_") else ("pictures",)
            return {"value": value, **{part: report[part] for part in parts if part in report}}
        seen = self.judge.look(self.pictures(changed, f"{setting}={value}"))
        point = {"value": value, "pictures": self.measure(seen)}
        if self.asks_prior and setting.startswith("prior_"):
            point["prior"] = self.prior(changed)
        return point


def in_halves(pictures):
    """The first half and the second of what has a length and `take`."""
    count = len(pictures) // 2
    return pictures.take(torch.arange(count)), pictures.take(torch.arange(count, 2 * count))


def classes_of(folder):
    """The first names of a labelled folder's classes, and which names take no article."""
    captions = ClassCaptions.of_folder(folder)
    return [names[0] for names in captions.names], captions.no_article


def classifier_of(clip, concepts):
    """Who names pictures: by (concepts, those without an article); None where there are none."""
    return None if concepts is None else ZeroShotClassifier(clip, concepts[0], TEMPLATES, concepts[1])


def concepts_of(path):
    """The names in a file of concepts, each once; None for no file. Raises UserError where there are fewer than two."""
    if path is None:
        return None
    names = list(dict.fromkeys(read_lines(path)))
    if len(names) < 2:
        raise UserError(f"{path} holds {plural(len(names), 'concept')}: an evaluation needs two at least")
    return names


def plural(count, noun):
    return f"{count} {noun}" + ("" if count == 1 else "s")

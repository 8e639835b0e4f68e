"""What `scripts/reward.py` runs: a model's decoder, and classifiers that say how well what it draws is recognised."""

import random
from pathlib import Path

import torch
from pydantic import Field
from tqdm import tqdm

from ..classifiers import imagenet_classifiers
from ..config import Strict, signature_model
from ..data.images import grid, to_pil
from ..diffusion import SeededNoise
from ..errors import UserError
from ..hub import model_folder
from ..model_index import begin_copy, read_classes
from ..pipeline import UnCLIP
from ..reward import RewardTuning
from .config import OptimizerConfig, TrainConfig
from .distillation import GUIDANCE, fill_guidance
from .loop import config_of_run, train
from .processes import process
from .runs import SAMPLES, spare_decoders

TOGETHER = 200  # embeddings that are drawn at once


class RewardRun(Strict):
    """reference: "pocket", a model folder or a hub id, which knows its classes; out: the folder of the model with the rewarded
    decoder. classifiers: timm's names; wordnet: a table of the classes, see `imagenet_classifiers`. embeddings: how many a
    class the prior draws to learn from, as it draws by default; train.val_samples more are held out. tuning: see
    `RewardTuning`; what is left out of the guidance is the reference's default."""

    reference: str = "pocket"
    out: str
    classifiers: list[str] = Field(min_length=1)
    wordnet: str
    embeddings: int = Field(ge=1)
    tuning: signature_model(RewardTuning, leave_out=["reference", "reward"], may_miss=GUIDANCE)
    optimizer: OptimizerConfig
    train: TrainConfig


def reward(path, overrides=()):
    """Reward a model's decoder as a config says; writes OUT, a whole model."""
    config = config_of_run(RewardRun, path, overrides)
    folder, state = model_folder(config.reference), process()
    spare_decoders(config, folder, path)
    classes = read_classes(folder)
    if classes is None:
        raise UserError(f"{path}: {folder} has no classes to be recognised: choose a model of labelled pictures")
    fill_guidance(config.tuning, folder)
    judges = imagenet_classifiers(config.classifiers, config.wordnet, classes)
    drawing = UnCLIP.from_pretrained(folder, device=state.device)
    judges.to(state.device, memory_format=torch.channels_last)
    model = RewardTuning(drawing.decoder, judges, **config.tuning.model_dump())
    batches = Embeddings(drawing, config, state.process_index)
    held_out = Embeddings(drawing, config, "held out", config.train.val_samples)
    if state.is_main_process:
        begin_copy(folder, config.out, "decoder", {})
    state.wait_for_everyone()
    train(model, batches, held_out.parts(), config, sample=lambda model: sample_grid(model, held_out),
          export=lambda model: model.decoder.save(Path(config.out) / "decoder"))  # fmt: skip


class Embeddings:
    """Endless batches of what a model's prior draws of its classes: image_embed (B, D) and label (B,). Which depends on the
    run's seed, the part of it and the step alone.

    part: of the run, such as the number of a process; each has embeddings of its own. count: how many there are, of classes in
    turn; None: config.embeddings of each.
    """

    def __init__(self, model, config, part, count=None):
        captions = model.rivals.captions
        self.batch_size, self.name = config.train.batch_size, f"{config.train.seed} {part}"
        self.label = torch.arange(count or config.embeddings * len(captions)) % len(captions)
        rng, settings, drawn = random.Random(f"embeddings {self.name}"), model.defaults, []
        with tqdm(total=len(self.label), desc="embeddings", disable=not process().is_main_process) as bar, torch.no_grad():
            for labels in self.label.split(TOGETHER):
                texts = model.texts([captions[label] for label in labels.tolist()])
                drawn.append(model.image_embeddings(texts, [rng.getrandbits(31) for _ in labels], settings).cpu())
                bar.update(len(labels))
        self.image_embed = torch.cat(drawn)

    def at(self, step):
        """The batch of a step."""
        generator = torch.Generator().manual_seed(random.Random(f"{self.name} {step}").getrandbits(32))
        return self.rows(torch.randint(len(self.label), (self.batch_size,), generator=generator))

    def rows(self, rows):
        return {"image_embed": self.image_embed[rows], "label": self.label[rows]}

    def parts(self):
        """All of them once, in batches."""
        return [self.rows(rows) for rows in torch.arange(len(self.label)).split(self.batch_size)]

    def state(self):
        """Nothing: the step says where the batches are."""
        return {}

    def load(self, state):
        """Nothing to do: the step says it."""


def sample_grid(model, held_out):
    """What the reference draws of held-out embeddings, above what the decoder draws of them now."""
    embed, columns = held_out.image_embed[:SAMPLES], 8
    rows = [
        to_pil(decoder.sample(part, noise=SeededNoise(range(len(part))), **model.drawing))
        for part in embed.split(columns)
        for decoder in (model.reference, model.decoder)
    ]
    return grid([image for row in rows for image in row], columns, scale=max(1, 96 // model.decoder.image_size))

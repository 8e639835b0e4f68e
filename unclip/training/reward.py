"""What `scripts/reward.py` runs: a model's decoder, classifiers that say how well what it draws is recognised, and a critic."""

import random
from pathlib import Path
from typing import Optional

import torch
from pydantic import Field
from tqdm import tqdm

from ..classifiers import imagenet_classifiers
from ..config import Strict, signature_model
from ..critic import Critic
from ..data.captions import ClassCaptions
from ..data.images import grid, to_pil
from ..data.table import load_table
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
    class the prior draws to learn from, as it draws by default; train.val_samples more are held out. photographs: a data folder
    of the same classes, from whose training pictures a critic learns what a photograph is; left out: there is no critic.
    tuning: see `RewardTuning`; what is left out of the guidance is the reference's default."""

    reference: str = "pocket"
    out: str
    classifiers: list[str] = Field(min_length=1)
    wordnet: str
    embeddings: int = Field(ge=1)
    photographs: Optional[str] = None
    tuning: signature_model(RewardTuning, leave_out=["reference", "reward", "critic"], may_miss=GUIDANCE)
    optimizer: OptimizerConfig
    train: TrainConfig


def reward(path, overrides=()):
    """Reward a model's decoder as a config says; writes OUT, a whole model."""
    config = config_of_run(RewardRun, path, overrides)
    folder, state = model_folder(config.reference), process()
    spare_decoders(config, folder, path)
    classes = rewardable_classes(folder, path)
    fill_guidance(config.tuning, folder)
    judges = imagenet_classifiers(config.classifiers, config.wordnet, classes)
    drawing = UnCLIP.from_pretrained(folder, device=state.device)
    judges.to(state.device, memory_format=torch.channels_last)
    critic, photographs = None, None
    if config.photographs is not None:
        photographs = load_photographs(config.photographs, drawing.decoder.image_size, classes)
        critic = new_critic(judges, classes, config.train.seed)
    model = RewardTuning(drawing.decoder, judges, critic=critic, **config.tuning.model_dump())
    batches = Embeddings(drawing, config, state.process_index, photographs=photographs)
    held_out = Embeddings(drawing, config, "held out", config.train.val_samples)
    if state.is_main_process:
        begin_copy(folder, config.out, "decoder", {})
    state.wait_for_everyone()
    train(model, batches, held_out.parts(), config, sample=lambda model: sample_grid(model, held_out),
          export=lambda model: model.decoder.save(Path(config.out) / "decoder"))  # fmt: skip


def rewardable_classes(folder, path):
    """The ClassCaptions of a model folder. Raises UserError where it has none."""
    classes = read_classes(folder)
    if classes is None:
        raise UserError(f"{path}: {folder} has no classes to be recognised: choose a model of labelled pictures")
    return classes


def new_critic(judges, classes, seed):
    """A Critic whose weights are drawn by a run's seed."""
    torch.manual_seed(seed)
    return Critic(judges, len(classes.names))


def load_photographs(folder, size, classes):
    """For each class of a model, the photographs of it that a data folder has to train on: [uint8 (N, 3, S, S)].

    Raises:
        UserError: no such folder, or other classes in it.
    """
    theirs = ClassCaptions.of_folder(folder)
    if theirs is None or theirs.names != classes.names:
        raise UserError(f"photographs: {folder} has no labels of the reference's classes: name the data that it learned from")
    table = load_table(folder, "train", size)
    found = [table.images[table.labels == label] for label in range(len(classes.names))]
    if missing := [names[0] for names, images in zip(classes.names, found) if not len(images)]:
        raise UserError(f"photographs: {folder} has none of {missing[0]!r}: the critic needs some of every class")
    return found


class Embeddings:
    """Endless batches of what a model's prior draws of its classes: image_embed (B, D) and label (B,). Which depends on the
    run's seed, the part of it and the step alone.

    part: of the run, such as the number of a process; each has embeddings of its own. count: how many there are, of classes in
    turn; None: config.embeddings of each. photographs: what `load_photographs` gives, of which each batch has one for each of
    its labels, image uint8 (B, 3, S, S); None: no images.
    """

    def __init__(self, model, config, part, count=None, photographs=None):
        captions, self.photographs = model.rivals.captions, photographs
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
        batch = self.rows(torch.randint(len(self.label), (self.batch_size,), generator=generator))
        if self.photographs is not None:
            of_labels = [self.photographs[label] for label in batch["label"].tolist()]
            batch["image"] = torch.stack([of[int(torch.randint(len(of), (), generator=generator))] for of in of_labels])
        return batch

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

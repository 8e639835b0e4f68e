"""Small pictures as the stages before an upsampler draw them, for it to train on beside those that were shrunk.

An upsampler that has seen only pictures that were shrunk makes crisp whatever the decoder drew, its lattice and blotches
included: for what a decoder draws, nobody knows the true large picture. For a photograph that is noised a little, and drawn
again from there, it is known: the photograph. (The noise is SDEdit's, Meng et al. 2022; conditioning augmentation, Ho et al.
2021, section 4.2, spoils the small picture too, but not as a decoder does.)
"""

import random

import torch
from pydantic import Field, model_validator
from tqdm import tqdm

from ..augmentation import smaller
from ..config import Strict
from ..data.images import to_bytes, to_float
from ..data.table import TableBatches
from ..errors import UserError
from ..hub import model_folder
from ..model_index import side_before
from ..pipeline import UnCLIP
from ..stage import Start
from .processes import process

TOGETHER = 32  # pictures that are drawn at once, with one strength


class Redrawn(Strict):
    """Which small pictures of an upsampler's training are redrawn ones.

    model: "pocket", a model folder or a hub id, whose stages before this one draw, with its default settings; share: of each
    batch's pictures, at least one; strength: the smallest and the largest share of the way back to noise at which the decoder
    begins, drawn anew for every few pictures and rounded to its steps (the upsamplers after it begin, as always, with noise);
    pictures: how many of the training pictures are redrawn, once, before training; all, where there are no more.
    """

    model: str
    share: float = Field(gt=0, le=1)
    strength: tuple[float, float]
    pictures: int = Field(ge=1)

    @model_validator(mode="after")
    def check_strength(self):
        low, high = self.strength
        if not 0 < low <= high <= 1:
            raise ValueError(f"redrawn.strength is [{low}, {high}]: name a smallest and a largest, above 0 and 1 at most")
        return self


def check_drawn(model, stage, takes, path):
    """See that the stages of a model before `upsampler-STAGE` draw pictures of a side `takes`.

    Raises:
        UserError: they draw others, or are not all there.
    """
    drawn = side_before(model_folder(model), stage)
    if drawn is None:
        part = "decoder" if stage == 1 else f"upsampler-{stage - 1}"
        raise UserError(f"{path}: redrawn.model: {model} has no {part}: name a model that has the stages before this one")
    if drawn != takes:
        raise UserError(
            f"{path}: this upsampler takes {takes}x{takes}, but redrawn.model {model} draws {drawn}x{drawn} before it"
        )


def redrawn_batches(config, table, scale):
    """The endless batches of this process for an UpsamplerRun with `redrawn`: see MixedBatches.

    table: the training pictures, None where they are streamed; scale: of the upsampler. Which pictures are redrawn, and how,
    depends on the run's seed alone, so that a run that goes on redraws the same; each of several processes redraws them all.

    Raises:
        UserError: streamed pictures, or a model that cannot be loaded.
    """
    chosen, settings, state = config.redrawn, config.train, process()
    if table is None:
        raise UserError("redrawn is for sets in memory: set data.in_memory=true, or leave it out")
    generator = torch.Generator().manual_seed(settings.seed)
    some = table.take(torch.randperm(len(table), generator=generator)[: chosen.pictures])
    model = UnCLIP.from_pretrained(chosen.model, device=state.device)
    some.small = redraw(model, config.stage, some.images, chosen.strength, settings.seed, shown=state.is_main_process)
    count = min(settings.batch_size, max(1, round(chosen.share * settings.batch_size)))

    def batches(of, size, seed):
        mirror = config.data.mirror
        return TableBatches(of, size, seed, state.process_index, state.num_processes, mirror, captions=False)

    # Another seed, or the two parts of a batch would be mirrored alike.
    seed = random.Random(f"redrawn batches {settings.seed}").getrandbits(32)
    rest = settings.batch_size - count
    return MixedBatches(batches(some, count, seed), batches(table, rest, settings.seed) if rest else None, scale)


def redraw(model, stage, images, strength, seed, shown=True):
    """What an UnCLIP's stages before `upsampler-STAGE` make of pictures: uint8 (N, 3, S, S) -> uint8 (N, 3, s, s).

    Each is shrunk to the decoder's size, noised and drawn again from there, from CLIP's embedding of the whole picture, and
    enlarged by the upsamplers. strength: the smallest and the largest; shown: with a bar on the screen.
    """
    rng, drawn = random.Random(f"redrawn {seed}"), []
    settings = model.settings(stop_after=model.stages[stage - 1])
    factor = images.shape[-1] // model.decoder.image_size
    with tqdm(total=len(images), desc="redrawn for training", unit="pictures", disable=not shown) as bar:
        for part in images.split(TOGETHER):
            pictures = to_float(part)                                                                 # (B, 3, S, S)
            start = Start(smaller(pictures, factor), strength=rng.uniform(*strength))
            jobs = [("", rng.getrandbits(31)) for _ in part]
            drawn.append(to_bytes(model.sample_each(
                jobs, settings, image_embed=model.look(pictures), starts=[start, *[None] * len(model.upsamplers)],
                batch_size=TOGETHER,
            )))  # fmt: skip
            bar.update(len(part))
    return torch.cat(drawn)


class MixedBatches:
    """Batches whose first pictures have a redrawn small version, and the others a shrunk one: `small`, uint8 (B, 3, s, s).

    redrawn: TableBatches of a table with `small`; rest: TableBatches of one without, None: there are no others.
    """

    def __init__(self, redrawn, rest, scale):
        self.redrawn, self.rest, self.scale = redrawn, rest, scale

    def at(self, step):
        """The batch of a step."""
        first = self.redrawn.at(step)
        if self.rest is None:
            return first
        others = self.rest.at(step)
        others["small"] = to_bytes(smaller(to_float(others["image"]), self.scale))
        return {k: torch.cat([v, others[k]]) if torch.is_tensor(v) else v + others[k] for k, v in first.items()}

    def state(self):
        return self.redrawn.state()

    def load(self, state):
        self.redrawn.load(state)

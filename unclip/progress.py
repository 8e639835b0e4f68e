"""How far a drawing is, and what it looks like: what callbacks are told."""

import contextlib
from dataclasses import dataclass

import torch
from tqdm import tqdm

from .diffusion import Prediction


@dataclass(frozen=True)
class Step:
    """One step of a drawing, as a callback sees it, before x_t is left.

    stage: "prior", "base", "upsampler-1", ..., or "inversion", the first two again for each of `num_samples`; index: of `count`
    steps that this stage takes in one go; rows: which of the pictures, a range; x_t and prediction: theirs (B, ...), see
    diffusion/samplers.py, in the prior those of all embeddings that it draws for them, see `DiffusionPrior.sample`; share: of
    all the work, done after this step (0 in an inversion and what else comes before the work).
    """

    stage: str
    index: int
    count: int
    rows: range
    x_t: torch.Tensor
    prediction: Prediction
    share: float


class Progress:
    """Counts the steps of a drawing, `total` in all (0: not counted), and tells a callback (or None) of each."""

    def __init__(self, callback, total):
        self.callback, self.total, self.done = callback, total, 0

    def of(self, rows):
        """Of the pictures in a range: a function from a stage's name to the callback that samplers take."""

        def stage(name):
            def step(i, n, x_t, prediction):
                self.done += len(rows)
                if self.callback is not None:
                    share = self.done / self.total if self.total else 0.0
                    self.callback(Step(name, i, n, rows, x_t, prediction, share))

            return step

        return stage


@contextlib.contextmanager
def progress_bar():
    """A bar on the screen for as long as a drawing lasts: gives the drawing's callback."""
    with tqdm(total=1.0, desc="drawing", bar_format="{l_bar}{bar}| {elapsed}", leave=False) as bar:
        yield lambda step: bar.update(step.share - bar.n)

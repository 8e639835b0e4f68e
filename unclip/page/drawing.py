"""Runs a model for the page: one order at a time, seen while it is drawn, and stopped when nobody looks any more."""

import time
import traceback
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event
from typing import Any, Callable, Sequence

from ..data.images import to_pil
from ..errors import UserError, first_line

TICK = 0.25  # seconds between two looks at a drawing
DOING = {"prior": "choosing what to show", "inversion": "finding the noise behind the picture", "base": "drawing"}


@dataclass(frozen=True)
class Order:
    """What a visitor asks for.

    work: called with a callback for the steps (see `progress.Step`), gives what is shown: pictures, or anything else.
    captions: one for each of the pictures, or none at all. prompts: of which is told how the model reads them.
    """

    work: Callable[[Callable], Any]
    captions: Sequence[str] = ()
    prompts: Sequence[str] = ()


class Stopped(Exception):
    """Nobody waits for the drawing any more."""


class Watch:
    """The callback of a drawing: keeps its last step, and ends it once `stop` is set, or `closed`, which all share."""

    def __init__(self, closed):
        self.stop, self.closed, self.step = Event(), closed, None

    def __call__(self, step):
        if self.stop.is_set() or self.closed.is_set():
            raise Stopped
        self.step = step


class Studio:
    """A model and the one thread in which it runs, so that two visitors never run it at once."""

    def __init__(self, model):
        self.model, self.thread, self.closed = model, ThreadPoolExecutor(1, "studio"), Event()

    def close(self):
        """End what is drawn, and draw no more."""
        self.closed.set()
        self.thread.shutdown()

    def draw(self, take_order):
        """Yields pairs (what to show, or None for no change; a line or more of text). Closing the generator ends the work.

        take_order: gives an Order; what is wrong with it, or goes wrong in its work, becomes text.
        """
        watch, began, job = Watch(self.closed), time.monotonic(), None
        try:
            order = take_order()
            notes = "".join(f"\nnote: {note}" for prompt in order.prompts for note in self.model.notes(prompt))
            job, seen = self.thread.submit(order.work, watch), None
            while not wait([job], TICK).done:
                step = watch.step
                yield (None if step is seen else preview(step)), progress_line(step) + notes
                seen = step
            shown = job.result()
            yield with_captions(shown, order.captions), f"done in {time.monotonic() - began:.1f} seconds" + notes
        except Stopped:
            yield None, "stopped"
        except UserError as error:
            yield None, f"error: {error}"
        except Exception as error:
            traceback.print_exc()
            yield None, f"error: {first_line(error)}"
        finally:
            watch.stop.set()
            if job is not None:
                job.cancel()


def with_captions(shown, captions):
    return list(zip(shown, captions)) if captions else shown


def preview(step):
    """The pictures as guessed so far, or None in the stages that have none."""
    return None if step.stage in ("prior", "inversion") else to_pil(step.prediction.x_0)


def progress_line(step):
    """What a drawing is doing; step: None before the first."""
    if step is None:
        return "waiting for the model"
    return f"{DOING.get(step.stage, 'enlarging')}: step {step.index + 1} of {step.count}"

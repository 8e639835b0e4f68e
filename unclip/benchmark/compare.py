"""Comparisons with a peer: measure, print, write."""

from . import sampling, training
from .asked import at_least_one
from .machine import machine
from .report import summary, write


def compare(what, rounds, threads, dtype, device, batch, compile, peer_python, out):
    """Measure "sampling" or "training" against its peer; print the table, and write it and its bars to a folder: the paths.

    device: its name; batch: None: the usual one; compile, peer_python: of training, see `training.measure`.

    Raises:
        UserError: no rounds, threads or samples, or a peer that is not there.
    """
    described = machine(device)
    threads = described["cores"] if threads is None else threads
    at_least_one(rounds=rounds, threads=threads, samples=batch)
    how = {"dtype": dtype, "threads": threads, "device": device}
    if what == "sampling":
        measured = {"sampling": sampling.measure(rounds, how, batch)}
    else:
        measured = training.measure(rounds, how, batch, compile, peer_python)
    summaries = {work: summary(sides, reference="unclip") for work, sides in measured.items()}
    asked = {"rounds": rounds, "threads": threads, "dtype": dtype} | ({} if batch is None else {"batch": batch})
    return write(out, what, described, asked, measured, summaries)

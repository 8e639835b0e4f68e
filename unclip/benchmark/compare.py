"""Comparisons with a peer: measure, print, write."""

from . import sampling, training
from .asked import at_least_one
from .machine import machine
from .report import summary, write


def compare(what, rounds, threads, dtype, peer_python, out):
    """Measure "sampling" or "training" against its peer; print the table, and write it and its bars to a folder: the paths.

    Raises:
        UserError: no rounds or threads, or a peer that is not there.
    """
    described = machine()
    threads = described["cores"] if threads is None else threads
    at_least_one(rounds=rounds, threads=threads)
    if what == "sampling":
        measured = {"sampling": sampling.measure(rounds, threads, dtype)}
    else:
        measured = training.measure(rounds, threads, dtype, peer_python)
    summaries = {work: summary(sides, reference="unclip") for work, sides in measured.items()}
    asked = {"rounds": rounds, "threads": threads, "dtype": dtype}
    return write(out, what, described, asked, measured, summaries)

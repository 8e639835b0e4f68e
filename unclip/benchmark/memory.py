"""What gradient checkpointing saves and costs: a training step of a model's decoder, by batch size."""

from ..errors import UserError
from ..plots import save_figure
from .asked import at_least_one
from .decoders import decoder_folder
from .machine import in_words, machine
from .report import keep, summary, table
from .turns import Side, in_turn
from .worker import STATUS, peak_bytes

BATCHES = (32, 64, 128, 256)
COLOURS = {"plain": "#8a8a8a", "checkpointed": "#4c9f70"}


def memory(model, rounds, threads, device, out):
    """What `scripts/benchmark.py memory` does: measure, print a table, write it and its plot to a folder; returns the paths.

    Raises:
        UserError: no rounds or threads, no such model, see `decoder_folder`, a system that does not say what a process
            held, or a step that does not end.
    """
    described = machine(device)
    threads = described["cores"] if threads is None else threads
    at_least_one(rounds=rounds, threads=threads)
    if peak_bytes(device) is None:
        raise UserError(f"peaks of memory are read from {STATUS}, which this system has not: measure on Linux")
    measured = measure(decoder_folder(model), rounds, threads, device)
    summaries = {batch: summary(sides, reference="plain") for batch, sides in measured.items()}
    lines = table({f"a step of {batch} pictures": sides for batch, sides in summaries.items()})
    paths = keep(out, "memory", described, {"model": model, "rounds": rounds, "threads": threads}, measured, lines)
    return [*paths, *plot(out / "memory.png", in_words(described), summaries)]


def measure(folder, rounds, threads, device):
    """{batch: as `in_turn` gives it, for "plain" and "checkpointed"}, of the decoder in a folder. Raises UserError."""
    measured = {}
    for batch in BATCHES:
        spec = {"folder": folder, "batch": batch, "threads": threads, "device": device}
        try:
            measured[batch] = in_turn({
                "plain": lambda: Side("ours_checkpointing.py", {**spec, "checkpointed": False}),
                "checkpointed": lambda: Side("ours_checkpointing.py", {**spec, "checkpointed": True}),
            }, rounds, f"training step, {batch} pictures")  # fmt: skip
        except UserError as error:
            raise UserError(f"a step of {batch} pictures did not end, for want of memory as a rule: {error}") from None
    return measured


def plot(path, machine, summaries):
    """Peak memory over the batch, see `save_figure`. summaries: {batch: summary}."""

    def draw(figure):
        axes = figure.subplots()
        for name, colour in COLOURS.items():
            peaks = [sides[name]["peak_bytes"] / 1e9 for sides in summaries.values()]
            axes.plot(list(summaries), peaks, "o-", color=colour, label=name)
        axes.set(xlabel="pictures a step", ylabel="peak memory, GB", ylim=(0, None))
        axes.legend()

    return save_figure(path, (6, 4), draw, "bench", machine)

"""What drawing with a model's decoder costs: over batch, threads, size of the pictures, number of processes, and steps."""

import contextlib
from statistics import median

from tqdm import tqdm

from ..plots import save_figure
from .asked import at_least_one
from .decoders import decoder_folder
from .machine import in_words, machine
from .report import keep
from .turns import Side

BATCHES, STEPS, SIZES, PROCESSES = (1, 2, 4, 8, 16, 32, 64), (1, 2, 5, 10, 15, 25), (16, 32, 48, 64), (1, 2, 4)
BATCH, FEW = 8, 5  # pictures and steps where these are not what changes


def scaling(model, rounds, out):
    """What `scripts/benchmark.py scaling` does: measure, print a table, write it and its plots to a folder; returns the paths.

    Raises:
        UserError: no such model, see `decoder_folder`, or no rounds.
    """
    at_least_one(rounds=rounds)
    described = machine()
    measured = measure(decoder_folder(model), described["cores"], rounds)
    paths = keep(out, "scaling", described, {"model": model, "rounds": rounds}, measured, table(measured))
    return [*paths, *plot(out / "scaling.png", in_words(described), measured)]


def measure(folder, cores, rounds):
    """{what changes: {its value: {"images_per_second", "seconds", "peak_bytes"}}}; seconds: of a run, the median."""
    same = {"folder": folder, "batch": BATCH, "steps": FEW, "size": None, "threads": cores}
    changes = {
        "batch": [({**same, "batch": batch}, batch, 1) for batch in BATCHES],
        "threads": [({**same, "threads": threads}, threads, 1) for threads in range(1, cores + 1)],
        "size": [({**same, "size": size}, size, 1) for size in SIZES],
        "processes of one thread": [({**same, "threads": 1}, count, count) for count in PROCESSES if count <= cores],
        "steps": [({**same, "steps": steps}, steps, 1) for steps in STEPS],
    }
    progress = tqdm(total=sum(map(len, changes.values())), desc="scaling", unit="setting")
    measured = {}
    for what, settings in changes.items():
        measured[what] = {}
        for spec, value, processes in settings:
            measured[what][value] = at_once(spec, processes, rounds)
            progress.update()
    return measured


def at_once(spec, processes, rounds):
    """Several processes that draw at the same time."""
    with contextlib.ExitStack() as stack:
        sides = [Side("ours_drawing.py", spec) for _ in range(processes)]
        for side in sides:
            stack.callback(side.close)
        runs = []
        for k in range(rounds + 1):
            for side in sides:
                side.ask()
            answers = [side.answer() for side in sides]
            if k:
                runs.append(answers)
    seconds = median(max(run["seconds"] for run in answers) for answers in runs)
    peaks = [run["peak_bytes"] for answers in runs for run in answers if run["peak_bytes"]]
    return {"images_per_second": processes * spec["batch"] / seconds, "seconds": seconds, "peak_bytes": max(peaks, default=None)}


def table(measured):
    """Lines of Markdown."""
    lines = ["| what changes | value | pictures a second | seconds a run | peak memory of a process |", "|---|---|---|---|---|"]
    for what, values in measured.items():
        for value, found in values.items():
            memory = "" if found["peak_bytes"] is None else f"{found['peak_bytes'] / 1e9:.2f} GB"
            lines.append(f"| {what} | {value} | {found['images_per_second']:.2f} | {found['seconds']:.2f} | {memory} |")
    return [*lines, "", f"Where they do not change: {BATCH} pictures at once, {FEW} steps with guidance, all threads."]


def plot(path, machine, measured):
    """Pictures a second over everything that changes, memory over the batch, and seconds over the steps: `save_figure`."""
    panels = [(what, "images_per_second", "pictures a second", 1) for what in measured if what != "steps"]
    panels += [("batch", "peak_bytes", "peak memory, GB", 1e9), ("steps", "seconds", "seconds a run", 1)]

    def draw(figure):
        for axes, (what, key, label, unit) in zip(figure.subplots(2, 3).flatten(), panels, strict=True):
            values = measured[what]
            axes.plot(list(values), [(found[key] or 0) / unit for found in values.values()], "o-", color="#4c9f70")
            axes.set(xlabel=what, ylabel=label, ylim=(0, None))

    return save_figure(path, (11, 6), draw, "bench", machine)

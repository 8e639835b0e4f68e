"""What a comparison found: medians, spread and ratios, as Markdown, JSON and a bar chart."""

import json
from statistics import median

from ..files import new_file
from ..plots import save_figure
from .machine import in_words


def summary(measured, reference):
    """{name: {"parameters", "seconds": (median, least, most), "ratio": (median, least, most), "peak_bytes", "parts"}}.

    measured: as `in_turn` gives it; reference: the name of the side that the ratios are of: how many times as long each side
    takes in the same round. peak_bytes: the most; parts: {part: median seconds}.
    """
    base = [run["seconds"] for run in measured[reference]["runs"]]
    found = {}
    for name, side in measured.items():
        seconds = [run["seconds"] for run in side["runs"]]
        found[name] = {
            "parameters": side["parameters"],
            "seconds": spread(seconds),
            "ratio": spread([one / other for one, other in zip(seconds, base, strict=True)]),
            "peak_bytes": max((run["peak_bytes"] for run in side["runs"] if run["peak_bytes"]), default=None),
            "parts": {part: median(run["parts"][part] for run in side["runs"]) for part in side["runs"][0]["parts"]},
        }
    return found


def spread(values):
    return median(values), min(values), max(values)


def table(summaries):
    """{what was compared: its summary} as lines of Markdown."""
    lines = ["| work | side | parameters | seconds (least to most) | times as long (least to most) | peak memory |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for work, sides in summaries.items():
        for name, side in sides.items():
            seconds, ratio = ("{:.3g} ({:.3g} to {:.3g})".format(*side[key]) for key in ("seconds", "ratio"))
            memory = "" if side["peak_bytes"] is None else f"{side['peak_bytes'] / 1e9:.2f} GB"
            lines.append(f"| {work} | {name} | {side['parameters'] / 1e6:.1f} M | {seconds} | {ratio} | {memory} |")
            for part, took in side["parts"].items():
                lines.append(f"| | {name}: {part} | | {took:.3g} | {took / list(sides.values())[-1]['parts'][part]:.3g} | |")
    return lines


def write(folder, name, machine, asked, measured, summaries):
    """Print and write what was measured, see `keep`, as the table of the summaries, and its bars; returns the paths."""
    paths = keep(folder, name, machine, asked, measured, table(summaries))
    return [*paths, *chart(folder / f"{name}.png", in_words(machine), summaries)]


def keep(folder, name, machine, asked, measured, lines):
    """Print the lines under the machine and what was asked for, and write them to NAME.md, and all of it to NAME.json.

    Returns both paths.
    """
    lines = [f"{in_words(machine)}; " + ", ".join(f"{key} {value}" for key, value in asked.items()), "", *lines]
    print("\n".join(lines))
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        folder / f"{name}.json": json.dumps({"machine": machine, "asked": asked, "measured": measured}, indent=2),
        folder / f"{name}.md": "\n".join(lines),
    }
    for path, text in texts.items():
        with new_file(path) as temporary:
            temporary.write_text(text + "\n")
    return list(texts)


def chart(path, machine, summaries):
    """Bars: how many times as long each side takes; see `save_figure`."""
    bars = [(f"{work}: {name}", *side["ratio"]) for work, sides in summaries.items() for name, side in sides.items()]
    names, medians, least, most = zip(*reversed(bars))
    errors = [[m - low for m, low in zip(medians, least)], [high - m for m, high in zip(medians, most)]]

    def draw(figure):
        axes = figure.subplots()
        drawn = axes.barh(names, medians, xerr=errors, color=["#4c9f70" if "unclip" in name else "#8a8a8a" for name in names])
        axes.bar_label(drawn, fmt="%.2f", padding=6)
        axes.set_xlabel("times as long as unclip at the same work (less is better)")
        axes.margins(x=0.15)

    return save_figure(path, (8, 0.5 * len(bars) + 1.2), draw, "bench", machine)

"""Figures, where matplotlib is there to draw them."""

import sys

from ..files import new_file


def save_figure(path, machine, size, draw):
    """Write what `draw(figure)` draws, under the machine in words, as PNG; size: in inches.

    Returns [path], or [] where matplotlib is missing, which is said.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print(f'no {path.name}: plots need pip install -e ".[bench]"', file=sys.stderr)
        return []
    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    figure.suptitle(machine, fontsize=8)
    with new_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return [path]

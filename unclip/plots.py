"""Figures, where matplotlib is there to draw them: it comes with some extras."""

import sys

from .files import new_file


def save_figure(path, size, draw, extra, title=None):
    """Write what `draw(figure)` draws as PNG; size: in inches; title: over all of it.

    Returns [path], or [] where matplotlib is missing, which is said, with the extra that brings it.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print(f'no {path.name}: plots need pip install -e ".[{extra}]"', file=sys.stderr)
        return []
    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    if title is not None:
        figure.suptitle(title, fontsize=8)
    with new_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return [path]

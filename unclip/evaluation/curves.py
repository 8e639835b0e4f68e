"""Sweeps as pictures."""

from ..plots import save_figure
from .judge import FIGURES
from .prior import PRIOR_FIGURES

HORIZONTAL = "clip_score"
VERTICAL = "frechet_distance"


def write_curve(path, sweep):
    """Frechet distance against CLIP score at every value, and whatever else was measured; see `save_figure`.

    sweep: {"setting", "points": [{"value", "pictures": {name: Figure}, "prior": ...}, ...]}.
    """
    setting, points = sweep["setting"], sweep["points"]
    numbers = all(isinstance(point["value"], (int, float)) for point in points)
    if numbers:
        points = sorted(points, key=lambda point: point["value"])
    values, line = [point["value"] for point in points], "-" if numbers else "none"
    both = {HORIZONTAL, VERTICAL} <= set(points[0]["pictures"])
    parts = [(part, figures) for part, figures in (("pictures", FIGURES), ("prior", PRIOR_FIGURES)) if part in points[0]]
    panels = [(part, name) for part, figures in parts for name, (_, _, better) in figures.items()
              if better is not None and name in points[0][part]]  # fmt: skip
    count = len(panels) + both
    columns = min(4, count)
    rows = -(-count // columns)

    def draw(figure):
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        if both:
            x, y = ([point["pictures"][name] for point in points] for name in (HORIZONTAL, VERTICAL))
            axes[0].errorbar(middles(x), middles(y), xerr=whiskers(x), yerr=whiskers(y), marker="o", capsize=2, linestyle=line)
            for point, a, b in zip(points, x, y):
                axes[0].annotate(str(point["value"]), (a.value, b.value), textcoords="offset points", xytext=(5, 5))
            axes[0].set(xlabel=FIGURES[HORIZONTAL][0], ylabel=FIGURES[VERTICAL][0], title=f"by {setting}")
        for axis, (part, name) in zip(axes[both:], panels):
            figures = [point[part][name] for point in points]
            axis.errorbar(values, middles(figures), yerr=whiskers(figures), marker="o", capsize=2, linestyle=line)
            title = f"prior: {PRIOR_FIGURES[name][0]}" if part == "prior" else FIGURES[name][0]
            axis.set_xlabel(setting)
            axis.set_title(title, fontsize=10, wrap=True)
        for axis in axes[count:]:
            axis.axis("off")

    return save_figure(path, (3.4 * columns, 2.8 * rows), draw, "eval")


def middles(figures):
    return [figure.value for figure in figures]


def whiskers(figures):
    """Lengths of the error bars downwards and upwards: intervals need not hold their figure."""
    return [[max(0.0, f.value - f.low) for f in figures], [max(0.0, f.high - f.value) for f in figures]]

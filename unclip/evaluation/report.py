"""An evaluation on paper: report.json, report.md and a contact sheet."""

import json
from dataclasses import asdict, is_dataclass

from PIL import Image, ImageDraw, ImageFont

from ..data.images import grid, to_float, to_pil
from ..files import new_file
from .judge import FIGURES
from .prior import PRIOR_FIGURES

FILES = "report.json", "report.md", "sheet.png"
WORST, LETTERS = 10, 40
SHARE = "{:.1%}"
SHEET_ROWS, SHEET_COLUMNS, SHEET_SIDE = 40, 10, 64
SHEET_BESIDE = 16  # pictures and titles of rows that stand beside each other


def write_report(out, report):
    """Write the tables of an evaluation into a folder. report: as `evaluate` makes it, its figures as `Figure`s."""
    text = markdown(report)
    with new_file(out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1, default=plain) + "\n", encoding="utf-8")
    with new_file(out / "report.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_sheet(out, drawn):
    """Write the contact sheet of Pictures into a folder."""
    with new_file(out / "sheet.png") as temporary:
        contact_sheet(drawn).save(temporary, "PNG")


def plain(figure):
    """What JSON does not know."""
    if is_dataclass(figure):
        return asdict(figure)
    raise TypeError(f"{type(figure).__name__} has no place in a report")


def markdown(report):
    """The report's tables."""
    what = report["images"] or report["model"]
    head = f"{report['num_images']} pictures of {report['side']}x{report['side']}, seed {report['seed']}"
    head += ", drawn from true embeddings" if report["true_embeddings"] else ""
    if report["num_compared"]:
        many = "as many" if report["num_real"] == report["num_compared"] else report["num_real"]
        head += f", {report['num_compared']} of them against {many} real ones of {report['data']}"
    head += "."
    if report["num_enlarged"]:
        enlarged, side = report["num_enlarged"], f"{report['side']}x{report['side']}"
        head += f" Of the {report['num_real']} real ones, {enlarged} are smaller than {side} and were enlarged to it."
    head += f" Judge: {report['judge']}; features: {report['features']}. In brackets: 95% intervals."
    lines = [f"# {what}", "", head]
    if report["settings"]:
        drawn = {**report["settings"], "dtype": report["dtype"]}
        lines += ["", "Settings: " + ", ".join(f"{k} {v}" for k, v in drawn.items() if v is not None)]
    columns = ["pictures"] + (["real"] if report.get("real") else [])
    heads = ["", "pictures", "real pictures, another half"][: 1 + len(columns)]
    rows = [[title, *(cell(report[c], name, form) for c in columns)] for name, (title, form, _) in FIGURES.items()]
    lines += ["", *table(heads, [row for row in rows if any(row[1:])])]
    missed = {name: f for name, f in report["named"].items() if f.value < 1 and f.num_samples > 1}
    if missed:
        worst = sorted(missed.items(), key=lambda item: item[1].value)[:WORST]
        lines += ["", "Named right least often: " + ", ".join(f"{name} {f.value:.0%} of {f.num_samples}" for name, f in worst)]
    if "prior" in report:
        rows = [[title, cell(report["prior"], name, form)] for name, (title, form, _) in PRIOR_FIGURES.items()]
        samples = report["prior"]["cosine"].num_samples
        lines += ["", *table([f"prior, on {samples} real captions", ""], [row for row in rows if row[1]])]
    if "said" in report:
        rows = [[word, cell(f, "with", SHARE), cell(f, "without", SHARE)] for word, f in report["said"].items()]
        lines += ["", *table(["seen where it is said", "in the prompt", "not in the prompt"], rows)]
    for sweep in report["sweeps"]:
        for part, figures in (("pictures", FIGURES), ("prior", PRIOR_FIGURES)):
            points = [point for point in sweep["points"] if part in point]
            shown = {n: f for n, f in figures.items() if any(n in point[part] for point in points)}
            if points:
                heads = [f"{part} by {sweep['setting']}", *(title for title, *_ in shown.values())]
                rows = [[str(p["value"]), *(cell(p[part], n, form) for n, (_, form, _) in shown.items())] for p in points]
                lines += ["", *table(heads, rows)]
    return "\n".join(lines)


def cell(figures, name, form):
    """A figure with its interval, as text; '' where it was not measured."""
    if name not in figures:
        return ""
    figure = figures[name]
    return f"{form.format(figure.value)} ({form.format(figure.low)} to {form.format(figure.high)})"


def table(heads, rows):
    """The lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def contact_sheet(pictures):
    """A row a prompt, the prompt beside it, of SHEET_COLUMNS pictures at most; short rows stand beside each other.

    As many rows as SHEET_ROWS lines hold, evenly picked. Pictures without prompts stand in rows of their numbers.
    """
    rows, count = {}, len(pictures)
    for k, prompt in enumerate(pictures.prompts or []):
        rows.setdefault(prompt, []).append(k)
    for k in range(0, 0 if rows else count, SHEET_COLUMNS):
        rows[f"{k + 1} to {min(k + SHEET_COLUMNS, count)}"] = list(range(k, min(k + SHEET_COLUMNS, count)))
    columns = min(SHEET_COLUMNS, max(map(len, rows.values())))
    beside = max(1, SHEET_BESIDE // (columns + 2))  # a title is as wide as two pictures or so
    shown = evenly(list(rows.items()), SHEET_ROWS * beside)
    lines = -(-len(shown) // beside)
    font = ImageFont.load_default(size=13)
    titles = [title if len(title) <= LETTERS else f"{title[: LETTERS // 2]}…{title[-LETTERS // 2 + 1 :]}" for title, _ in shown]
    margin = max(round(font.getlength(title)) for title in titles) + 12
    strips = []
    for _, places in shown:
        images = to_pil(to_float(pictures.images[places[:columns]]))
        strips.append(grid(images, len(images), scale=max(1, SHEET_SIDE // images[0].width)))
    height, width = strips[0].height + 2, margin + max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width * -(-len(shown) // lines), height * lines), "white")
    for k, (title, strip) in enumerate(zip(titles, strips)):
        x, y = k // lines * width, k % lines * height
        sheet.paste(strip, (x + margin, y))
        ImageDraw.Draw(sheet).text((x + margin - 6, y + height // 2), title, "black", font, anchor="rm")
    return sheet


def evenly(items, most):
    """Of a list, as many as there may be, at even distances."""
    count = min(len(items), most)
    return [items[k * len(items) // count] for k in range(count)]

"""How much a visitor may ask for. What the widgets' own bounds do not cover is checked here.

All functions raise UserError for what is out of bounds.
"""

from ..errors import UserError

MAX_IMAGES = 16
MAX_STEPS = 100
MAX_GUIDANCE = 10.0
MAX_PROMPT = 500
MAX_CLASSES = 100
MAX_FILE = "20mb"


def whole(name, value, least, most):
    """A number from a widget as an int."""
    if value is None or not least <= value <= most or value != int(value):
        raise UserError(f"{name}: choose a whole number from {least} to {most}")
    return int(value)


def prompt(text, name="the prompt"):
    """A text field's value without the space around it; may be empty."""
    text = (text or "").strip()
    if len(text) > MAX_PROMPT:
        raise UserError(f"{name} has {len(text)} characters: use at most {MAX_PROMPT}")
    return text


def class_names(text):
    """Names, one a line or separated by commas: a list of at least two different ones."""
    names = list(dict.fromkeys(n for n in (part.strip() for part in (text or "").replace(",", "\n").splitlines()) if n))
    if not 2 <= len(names) <= MAX_CLASSES:
        raise UserError(f"{len(names)} class names: give 2 to {MAX_CLASSES}, one a line or separated by commas")
    return [prompt(name, f"the class name {name[:20]!r}...") for name in names]

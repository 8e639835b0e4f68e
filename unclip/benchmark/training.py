"""A training step against dalle2-pytorch's, which needs an older open_clip and so a Python of its own; or against itself."""

from functools import partial

from ..errors import UserError
from .turns import Side, in_turn

PARTS = {"decoder": 64, "prior": 256}  # pictures or captions a step


def measure(rounds, how, batch, compile, peer_python):
    """{part: as `in_turn` gives it}, each run a step of `batch` samples.

    how: {"dtype", "threads", "device"}; batch: None: PARTS[part].
    compile: a mode of torch.compile, in which our step is measured too; None: it is not.
    peer_python: of an environment with dalle2-pytorch: python -m venv peer; peer/bin/pip install dalle2-pytorch. None, on
        another device than the processor: our step stands beside itself in the other dtype.

    Raises:
        UserError: no peer, on the processor.
    """
    if peer_python is None and how["device"] == "cpu":
        raise UserError("name the Python of an environment with dalle2-pytorch: --peer-python DIR/bin/python")
    ours = {"unclip": how}
    if peer_python is None:
        other = "bfloat16" if how["dtype"] == "float32" else "float32"
        ours[f"unclip, {other}"] = {**how, "dtype": other}
    if compile is not None:
        ours[f"unclip, compiled: {compile}"] = {**how, "compile": compile}
    measured = {}
    for part, usual in PARTS.items():
        spec = {"part": part, "batch": batch or usual}
        sides = {name: partial(Side, "ours_training.py", {**spec, **each}) for name, each in ours.items()}
        if peer_python is not None:
            sides = {"dalle2-pytorch": partial(Side, "dalle2_training.py", {**spec, **how}, peer_python), **sides}
        measured[part] = in_turn(sides, rounds, f"training step, {part}")
    return measured

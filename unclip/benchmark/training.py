"""A training step against dalle2-pytorch's, which needs an older open_clip and so a Python of its own."""

from ..errors import UserError
from .turns import Side, in_turn

PARTS = {"decoder": 64, "prior": 256}  # pictures or captions a step


def measure(rounds, threads, dtype, peer_python):
    """{part: as `in_turn` gives it}, each run a step of PARTS[part] samples.

    peer_python: of an environment with dalle2-pytorch: python -m venv peer; peer/bin/pip install dalle2-pytorch.
    """
    if peer_python is None:
        raise UserError("name the Python of an environment with dalle2-pytorch: --peer-python DIR/bin/python")
    measured = {}
    for part, batch in PARTS.items():
        spec = {"part": part, "batch": batch, "dtype": dtype, "threads": threads}
        measured[part] = in_turn({
            "dalle2-pytorch": lambda: Side("dalle2_training.py", spec, peer_python),
            "unclip": lambda: Side("ours_training.py", spec),
        }, rounds, f"training step, {part}")  # fmt: skip
    return measured

"""Which sides a training step is measured on; none of them runs."""

import pytest

from unclip.benchmark import training
from unclip.errors import UserError

HOW = {"dtype": "float32", "threads": 2, "device": "cuda"}


@pytest.fixture
def begun(monkeypatch):
    """[(part, {side: (file, spec, python)})], of which every side is begun and none runs."""
    turns = []

    def in_turn(sides, rounds, say):
        turns.append((say.split()[-1], {name: make() for name, make in sides.items()}))

    monkeypatch.setattr(training, "Side", lambda file, spec, python=None: (file, spec, python))
    monkeypatch.setattr(training, "in_turn", in_turn)
    return turns


def test_both_sides_do_the_same(begun):
    how = {**HOW, "device": "cpu"}
    assert list(training.measure(3, how, None, None, "peer")) == ["decoder", "prior"]
    for (part, sides), batch in zip(begun, (64, 256), strict=True):
        spec = {"part": part, "batch": batch, **how}
        assert sides == {"dalle2-pytorch": ("dalle2_training.py", spec, "peer"), "unclip": ("ours_training.py", spec, None)}


def test_without_a_peer_our_step_stands_beside_itself(begun):
    training.measure(3, HOW, 512, "max-autotune", None)
    for part, sides in begun:
        spec = {"part": part, "batch": 512, **HOW}
        assert {name: side[1] for name, side in sides.items()} == {
            "unclip": spec, "unclip, bfloat16": {**spec, "dtype": "bfloat16"},
            "unclip, compiled: max-autotune": {**spec, "compile": "max-autotune"},
        }  # fmt: skip


def test_on_the_processor_there_must_be_a_peer(begun):
    with pytest.raises(UserError, match="with dalle2-pytorch: --peer-python DIR/bin/python$"):
        training.measure(3, {**HOW, "device": "cpu"}, None, None, None)
    assert begun == []

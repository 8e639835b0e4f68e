"""What the tests of trainings share: how they are run, configs for them, and a Ctrl-C."""

import os
import signal

import pytest
import yaml
from accelerate.state import AcceleratorState, GradientState

OPTIMIZER = {"name": "muon", "lr": 1e-3, "warmup": 2}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Each test trains as a process of its own would, and not on a GPU, where sums come out a little different."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def write_config(path, sections, changes):
    """Write the sections of a config as YAML, with some changed: what is a dict is merged into its section. The path."""
    merged = {name: {**sections.get(name, {}), **change} if isinstance(change, dict) else change
              for name, change in changes.items()}  # fmt: skip
    path.write_text(yaml.safe_dump({**sections, **merged}))
    return path


@pytest.fixture
def interrupted(monkeypatch):
    """Runs a training, given the class of its model, that Ctrl-C ends in its second step."""

    def interrupted(model_class, train):
        loss, calls = model_class.loss, []

        def second_is_too_much(model, batch, generator=None):
            calls.append(model.training)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return loss(model, batch, generator)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(model_class, "loss", second_is_too_much)
            train()

    return interrupted

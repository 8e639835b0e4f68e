import pytest
from accelerate.state import AcceleratorState, GradientState


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Each test trains as a process of its own would, and not on a GPU, where sums come out a little different."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()

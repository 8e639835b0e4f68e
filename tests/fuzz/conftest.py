"""Readers of what a stranger may have made, fed with what nobody would make.

A normal run takes a few inputs a test. More, for an evening: pytest tests/fuzz --hypothesis-profile=long
"""

import pytest
from hypothesis import HealthCheck, settings

from .watch import watched

anything = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("few", max_examples=20, derandomize=True, **anything)
settings.register_profile("long", max_examples=1500, **anything)
settings.load_profile("few")


@pytest.fixture
def watch(tmp_path):
    """watch(): a context in which a reader may neither write outside `tmp_path`, nor start a process, nor use the network."""
    return lambda: watched(tmp_path)

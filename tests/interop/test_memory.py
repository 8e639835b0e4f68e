"""Loading and importing take the weights and no second copy of them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unclip.interop.exporting import export_diffusers
from unclip.prior import DiffusionPrior

SLACK = 48e6  # of an interpreter at work: a quarter of the weights, and what it imports differs from machine to machine


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
def test_no_more_than_the_weights_and_the_largest_of_them(tmp_path):
    transformer = {"text_dim": 64, "text_length": 8, "width": 768, "layers": 6, "heads": 12}
    prior = DiffusionPrior(embed_dim=64, transformer=transformer)
    sizes = [p.numel() * 4 for p in prior.parameters()]
    prior.save(tmp_path / "model" / "prior", dtype=None)
    export_diffusers(tmp_path / "model", tmp_path / "source")
    bound = sum(sizes) + max(sizes) + SLACK
    assert torch.get_default_dtype() == torch.float32 and bound < 1.5 * sum(sizes)  # a second copy would show
    for what, folder in [("load", tmp_path / "model" / "prior"), ("import", tmp_path / "source")]:
        command = [sys.executable, str(Path(__file__).with_name("peak.py")), what, str(folder), str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert int(done.stdout.split()[-1]) < bound, what

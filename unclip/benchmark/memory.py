"""What gradient checkpointing saves and costs: a training step of the pocket decoder, by batch size.

    python -c "from unclip.benchmark.memory import measure; print(measure())"
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from ..decoder import Decoder
from ..errors import UserError
from ..hub import model_folder
from ..training.config import OptimizerConfig
from ..training.ema import EMA
from ..training.optimizers import build_optimizer
from ..training.speed import checkpoint_gradients

STATUS = Path("/proc/self/status")


def measure(batch_sizes=(32, 64, 128, 256), steps=5, threads=2):
    """{batch size: {"plain" and "checkpointed": {"seconds", "peak_bytes", "loaded_bytes"}}}, in float32 on the CPU.

    Each from a process of its own: seconds is the median over `steps` steps after one that does not count, peak_bytes the
    most memory that the process ever held, and loaded_bytes what it held before the first step, with weights, averaged
    weights and libraries.

    Raises:
        UserError: a system without /proc, or a step that does not end, for want of memory as a rule.
    """
    if not STATUS.is_file():
        raise UserError(f"peaks of memory are read from {STATUS}, which this system has not: measure on Linux")
    jobs = [(size, name) for size in batch_sizes for name in ("plain", "checkpointed")]
    measured = {size: {} for size in batch_sizes}
    for size, name in tqdm(jobs, desc="training steps", leave=False):
        measured[size][name] = in_a_process(size, name == "checkpointed", steps, threads)
    return measured


def in_a_process(batch_size, checkpointed, steps, threads):
    """`training_steps` in a fresh process, whose peak is that of nothing else."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": "",
                   "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}  # fmt: skip
    command = [sys.executable, "-m", __name__, json.dumps([batch_size, checkpointed, steps])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = f"code {done.returncode}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}"
        raise UserError(f"a step of {batch_size} pictures did not end ({reason}): measure smaller batches")
    return json.loads(done.stdout)


def training_steps(batch_size, checkpointed, steps):
    """Train the pocket decoder for 1 + steps steps on noise, in this process; see `measure`."""
    torch.manual_seed(0)
    decoder = Decoder.from_pretrained(model_folder("pocket") / "decoder").to(memory_format=torch.channels_last).train()
    if checkpointed:
        checkpoint_gradients(decoder)
    optimizer, ema = build_optimizer(decoder, OptimizerConfig(name="muon", lr=1e-4)), EMA(decoder, 0.998)
    side = decoder.image_size
    batch = {
        "image": torch.randint(256, (batch_size, 3, side, side), dtype=torch.uint8),
        "image_embed": torch.randn(batch_size, len(decoder.null_image)),
    }
    loaded, seconds = held_bytes("VmRSS"), []
    for _ in range(1 + steps):
        start = time.perf_counter()
        decoder.loss(batch)[0].mean().backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(decoder)
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds[1:]), "peak_bytes": held_bytes("VmHWM"), "loaded_bytes": loaded}


def held_bytes(what):
    """Memory of this process: now ("VmRSS"), or the most ever ("VmHWM")."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(training_steps(*json.loads(sys.argv[1]))))

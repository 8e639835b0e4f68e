"""One side of a comparison, in a process of its own: it runs when it is told to, and says how long that took.

    python worker.py SIDE.py '{"threads": 2, ...}'

SIDE.py has `build(**spec)`, which gives a function of no arguments that does the work once and gives {part: seconds} or
None, and the number of parameters that it runs. It works on the spec's "device", or the processor where there is none in it.
For every line on standard input the work is done once, and a line of JSON comes back. Needs nothing but what SIDE.py needs, so
that it runs in a peer's own environment.
"""

import importlib.util
import json
import os
import sys
import time
from pathlib import Path

STATUS = Path("/proc/self/status")  # of Linux


def load(path):
    """The module in a file, which its folder's other files do not see: their names could hide packages."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def now(device):
    """Seconds, once a device has done all that it was told to: a GPU is still at work where Python has gone on."""
    if device != "cpu":
        import torch

        torch.accelerator.synchronize(device)
    return time.perf_counter()


def peak_bytes(device="cpu"):
    """The most memory that this process has held, of a GPU its tensors alone; None where the system does not say."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None
    try:
        status = STATUS.read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), None)


def main():
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]
    answers = os.fdopen(os.dup(1), "w")  # what libraries print goes elsewhere
    os.dup2(2, 1)
    spec = json.loads(sys.argv[2])
    device = spec.get("device", "cpu")
    work, parameters = load(sys.argv[1]).build(**spec)
    print(json.dumps({"parameters": parameters}), file=answers, flush=True)
    for _ in sys.stdin:
        start = now(device)
        parts = work()
        seconds = now(device) - start
        answer = {"seconds": seconds, "parts": parts or {}, "peak_bytes": peak_bytes(device)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

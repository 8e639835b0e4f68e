"""How near each network comes to what the machine can do.

Attainable is the time that its matrix products and convolutions would take, each at the rate that this machine reached for a
large one, if all else were free. The counts are PyTorch's (`FlopCounterMode`; a multiplication and an addition are two).
"""

import statistics
import time

import torch
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from ..pipeline import UnCLIP
from .asked import at_least_one
from .machine import machine
from .report import keep

ROUNDS = 5
SHARES = {  # the kinds of work that a profile is summed up in, and what their operations' names hold
    "convolutions": ("conv",),
    "matrix products": ("mm", "attention"),
    "norms": ("norm",),
    "the rest": ("",),
}


def roofline(model_name, batch, threads, out):
    """What `scripts/benchmark.py roofline` does: measure, print the table, and write it to a folder; returns the paths.

    Raises:
        UserError: no such model, or no pictures or threads.
    """
    described = machine()
    threads = described["cores"] if threads is None else threads
    at_least_one(pictures=batch, threads=threads)
    measured = measure(UnCLIP.from_pretrained(model_name), batch, threads)
    asked = {"model": model_name, "batch": batch, "threads": threads}
    return keep(out, "roofline", described, asked, measured, table(measured))


def measure(model, batch, threads):
    """{"rates": {"matrix", "convolution": FLOP/s}, "parts": {part: what `of_part` gives}} for a model's prior, decoder and
    first upsampler, each on `batch` samples in one forward."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rates = {"matrix": matrix_rate(), "convolution": convolution_rate()}
        return {"rates": rates, "parts": {name: of_part(forward, rates) for name, forward in forwards(model, batch).items()}}
    finally:
        torch.set_num_threads(before)


def matrix_rate(side=2048):
    """FLOP/s of a float32 matrix product."""
    a, b = torch.randn(2, side, side)
    return 2 * side**3 / fastest(lambda: a @ b)


def convolution_rate(batch=16, channels=256, side=32):
    """FLOP/s of a 3x3 convolution in float32 and channels_last."""
    x = torch.randn(batch, channels, side, side).to(memory_format=torch.channels_last)
    convolution = torch.nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)
    with torch.no_grad():
        return 2 * 9 * channels**2 * batch * side**2 / fastest(lambda: convolution(x))


def fastest(work):
    """The least seconds of a few tries, the first not counted."""
    work()
    return min(timed(work) for _ in range(ROUNDS))


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.no_grad()
def forwards(model, batch):
    """{part: a function that runs its network once}."""
    t = torch.full((batch,), 500)
    texts = model.texts(["a photo of a dog"] * batch)
    prior, decoder = model.prior, model.decoder
    captions = prior.read(texts.text)
    embeds = torch.randn(batch, prior.embed_dim)
    x = torch.randn(batch, 3, decoder.image_size, decoder.image_size)
    condition = decoder.read(embeds, **(texts.text if decoder.text_to_tokens is not None else {}))
    found = {
        "prior": lambda: prior.network(embeds, t, **captions),
        "decoder": lambda: decoder.network(x, t, **condition),
    }
    if model.upsamplers:
        upsampler = model.upsamplers[0]
        large = torch.randn(batch, 3, upsampler.image_size, upsampler.image_size)
        low, level = torch.nn.functional.avg_pool2d(large, upsampler.scale), torch.zeros(batch)
        enlarged = upsampler.conditions(low, level, embeds)
        found["upsampler"] = lambda: upsampler.network(large, t, **enlarged)
    return {name: torch.no_grad()(forward) for name, forward in found.items()}


def of_part(forward, rates):
    """{"flops", "seconds", "attainable_seconds", "share": attainable / taken, "work": {kind: share of the time taken}}."""
    with FlopCounterMode(display=False) as counter:
        forward()
    by_kind = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    convolutions = sum(count for op, count in by_kind.items() if "convolution" in op)
    flops = counter.get_total_flops()
    attainable = convolutions / rates["convolution"] + (flops - convolutions) / rates["matrix"]
    forward()
    seconds = statistics.median(timed(forward) for _ in range(ROUNDS))
    return {"flops": flops, "seconds": seconds, "attainable_seconds": attainable, "share": attainable / seconds,
            "work": shares(forward)}  # fmt: skip


def shares(forward):
    """What the time of a forward goes into, as shares of it."""
    with profile() as profiled:
        forward()
    taken = dict.fromkeys(SHARES, 0.0)
    for event in profiled.key_averages():
        kind = next(kind for kind, parts in SHARES.items() if any(part in event.key for part in parts))
        taken[kind] += event.self_cpu_time_total
    return {kind: time / sum(taken.values()) for kind, time in taken.items()}


def table(measured):
    """Lines of Markdown."""
    rates = measured["rates"]
    lines = [
        "Measured rates: {:.0f} GFLOP/s for a matrix product, {:.0f} for a convolution.".format(
            rates["matrix"] / 1e9, rates["convolution"] / 1e9
        ),
        "",
        "| part | GFLOP a forward | milliseconds | attainable | share | of the time: " + ", ".join(SHARES) + " |",
        "|---|---|---|---|---|---|",
    ]
    for name, part in measured["parts"].items():
        work = ", ".join(f"{share:.0%}" for share in part["work"].values())
        lines.append(
            f"| {name} | {part['flops'] / 1e9:.2f} | {part['seconds'] * 1e3:.1f} | {part['attainable_seconds'] * 1e3:.1f} | "
            f"{part['share']:.0%} | {work} |"
        )
    return lines

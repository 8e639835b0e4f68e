"""How near each network comes to what the machine can do.

Attainable is the time that its matrix products and convolutions would take, each at the rate that this machine reached for a
large one in the same dtype, if all else were free. The counts are PyTorch's (`FlopCounterMode`; a multiplication and an addition
are two).
"""

import statistics

import torch
from torch.autograd import DeviceType
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from ..conditioning import on
from ..pipeline import UnCLIP
from .asked import at_least_one
from .machine import machine
from .report import keep
from .worker import now

ROUNDS, BATCH = 5, 8
SHARES = {  # the kinds of work that a profile is summed up in, and what their operations' names hold
    "convolutions": ("conv",),
    "matrix products": ("mm", "attention"),
    "norms": ("norm",),
    "the rest": ("",),
}


def roofline(model_name, batch, threads, dtype, device, out):
    """What `scripts/benchmark.py roofline` does: measure, print the table, and write it to a folder; returns the paths.

    Raises:
        UserError: no such model, or no pictures or threads.
    """
    described = machine(device)
    threads = described["cores"] if threads is None else threads
    batch = BATCH if batch is None else batch
    at_least_one(pictures=batch, threads=threads)
    model = UnCLIP.from_pretrained(model_name, device=device, dtype=getattr(torch, dtype))
    measured = measure(model, batch, threads)
    asked = {"model": model_name, "batch": batch, "threads": threads, "dtype": dtype}
    return keep(out, "roofline", described, asked, measured, table(measured))


def measure(model, batch, threads):
    """{"rates": {"matrix", "convolution": FLOP/s}, "parts": {part: what `of_part` gives}} for a model's prior, decoder and
    first upsampler, each on `batch` samples in one forward."""
    like = next(model.decoder.parameters())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rates = {"matrix": matrix_rate(like), "convolution": convolution_rate(like)}
        parts = {name: of_part(forward, rates, str(like.device)) for name, forward in forwards(model, batch).items()}
        return {"rates": rates, "parts": parts}
    finally:
        torch.set_num_threads(before)


def matrix_rate(like):
    """FLOP/s of a matrix product, on the device and in the dtype of a tensor; large enough to keep a GPU at work."""
    side = 2048 if like.is_cpu else 8192
    a, b = torch.randn(2, side, side).to(like)
    return 2 * side**3 / fastest(lambda: a @ b, str(like.device))


def convolution_rate(like, channels=256, side=32):
    """FLOP/s of a 3x3 convolution in channels_last, likewise."""
    batch = 16 if like.is_cpu else 256
    x = torch.randn(batch, channels, side, side).to(like, memory_format=torch.channels_last)
    convolution = torch.nn.Conv2d(channels, channels, 3, padding=1).to(like, memory_format=torch.channels_last)
    with torch.no_grad():
        return 2 * 9 * channels**2 * batch * side**2 / fastest(lambda: convolution(x), str(like.device))


def fastest(work, device):
    """The least seconds of a few tries, the first not counted."""
    work()
    return min(timed(work, device) for _ in range(ROUNDS))


def timed(work, device):
    start = now(device)
    work()
    return now(device) - start


@torch.no_grad()
def forwards(model, batch):
    """{part: a function that runs its network once}."""
    device = model.decoder.device
    t = torch.full((batch,), 500, device=device)
    text = on(model.texts(["a photo of a dog"] * batch).text, device)
    prior, decoder = model.prior, model.decoder
    captions = prior.read(text)
    embeds = torch.randn(batch, prior.embed_dim, device=device)
    x = torch.randn(batch, 3, decoder.image_size, decoder.image_size, device=device)
    condition = decoder.read(embeds, **(text if decoder.text_to_tokens is not None else {}))
    found = {
        "prior": lambda: prior.network(embeds, t, **captions),
        "decoder": lambda: decoder.network(x, t, **condition),
    }
    if model.upsamplers:
        upsampler = model.upsamplers[0]
        large = torch.randn(batch, 3, upsampler.image_size, upsampler.image_size, device=device)
        low, level = torch.nn.functional.avg_pool2d(large, upsampler.scale), torch.zeros(batch)
        enlarged = upsampler.conditions(low, level, embeds)
        found["upsampler"] = lambda: upsampler.network(large, t, **enlarged)
    return {name: torch.no_grad()(forward) for name, forward in found.items()}


def of_part(forward, rates, device="cpu"):
    """{"flops", "seconds", "attainable_seconds", "share": attainable / taken, "work": {kind: share of the time taken}}."""
    with FlopCounterMode(display=False) as counter:
        forward()
    by_kind = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    convolutions = sum(count for op, count in by_kind.items() if "convolution" in op)
    flops = counter.get_total_flops()
    attainable = convolutions / rates["convolution"] + (flops - convolutions) / rates["matrix"]
    forward()
    seconds = statistics.median(timed(forward, device) for _ in range(ROUNDS))
    return {"flops": flops, "seconds": seconds, "attainable_seconds": attainable, "share": attainable / seconds,
            "work": shares(forward, device)}  # fmt: skip


def shares(forward, device):
    """What the time of a forward goes into, as shares of it; on a GPU of its kernels' time, {} where the profiler sees none."""
    time_of = "self_device_time_total" if device.startswith("cuda") else "self_cpu_time_total"
    with profile() as profiled:
        forward()
    taken = dict.fromkeys(SHARES, 0.0)
    for event in profiled.key_averages():
        if event.device_type != DeviceType.CPU:  # a kernel, whose time its operation has too
            continue
        kind = next(kind for kind, parts in SHARES.items() if any(part in event.key for part in parts))
        taken[kind] += getattr(event, time_of)
    total = sum(taken.values())
    return {kind: time / total for kind, time in taken.items()} if total else {}


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
            f"| {name} | {part['flops'] / 1e9:.2f} | {part['seconds'] * 1e3:.2f} | {part['attainable_seconds'] * 1e3:.2f} | "
            f"{part['share']:.0%} | {work} |"
        )
    return lines

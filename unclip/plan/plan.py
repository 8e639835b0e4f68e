"""What a training would take on which GPUs: computed from its config, and not measured."""

import json

import torch

from ..errors import UserError, nearest
from ..files import new_file
from .cards import CARDS, GB
from .memory import ROOM, STRATEGIES, held
from .models import subject
from .step import step_of

HALF = {"auto": torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16, "no": None}
DAY = 86_400
SHOWN = 0.02  # of all parameters, from which on a part has a place of its own


def plan(path, overrides=(), *, gpus=1, gpu="h100", strategy="ddp", utilisation=0.4):
    """{"config", "kind", "parameters", "parts", ..., "ways": {"plain", "checkpointed": figures}} of a training config.

    gpus: how many, each with a batch of its own; gpu: a key of `CARDS`; strategy: of `STRATEGIES`; utilisation: the share of
    the card's peak that a step reaches. Memory is a sum, as if gradients and activations were all there at the same time.

    Raises:
        UserError: see `models.subject`; or no such card, strategy, number of GPUs or utilisation.
    """
    check(gpus, gpu, strategy, utilisation)
    card, what = CARDS[gpu], subject(path, overrides)
    settings, half = what.config.train, HALF[what.config.train.precision]
    step = step_of(what, half)
    frozen = sum(tensor.nbytes for module in what.frozen.values() for tensor in module.state_dict().values())
    there = held(what.model, frozen, step.moments, strategy, gpus, half and half.itemsize)
    peak = card.flops if half else card.flops / 2
    return {
        "config": str(path),
        "kind": what.kind,
        "parameters": sum(p.numel() for p in what.model.parameters()),
        "parts": parts(what.model),
        "frozen_parameters": {name: sum(p.numel() for p in module.parameters()) for name, module in what.frozen.items()},
        "gpu": card.name,
        "gpus": gpus,
        "strategy": strategy,
        "precision": "float32" if half is None else str(half).removeprefix("torch."),
        "batch": settings.batch_size,
        "accumulate": settings.accumulate,
        "steps": settings.steps,
        "minutes": settings.minutes,
        "utilisation": utilisation,
        "memory_of_gpu": card.memory,
        "ways": {
            name: way(one, step, there, strategy, settings, gpus, peak * utilisation, card.memory)
            for name, one in step.passes.items()
        },
    }


def check(gpus, gpu, strategy, utilisation):
    """Raises UserError for what cannot be planned."""
    for what, name, known in (("--gpu", gpu, CARDS), ("--strategy", strategy, STRATEGIES)):
        if name not in known:
            raise UserError(f"{what} {name}{nearest(name, known)}: choose one of {', '.join(known)}")
    if gpus < 1 or not 0 < utilisation <= 1:
        raise UserError(f"--gpus {gpus} --utilisation {utilisation}: choose 1 GPU or more, and a share above 0, up to 1")


def way(one, step, there, strategy, settings, gpus, rate, memory):
    """The figures of a `Pass` with the bytes `there` besides: FLOP, memory, time on GPUs that compute at `rate`."""
    flops = one.flops * settings.accumulate + step.optimizer_flops
    bytes_for = dict(there)
    if strategy == "ddp":  # elsewhere the weights are in half precision themselves
        bytes_for["casts"] = one.casts
    fixed = sum(bytes_for.values())
    bytes_for["activations"] = one.kept
    steps_a_second = rate / flops
    days = settings.steps and settings.steps / steps_a_second / DAY
    return {
        "flops": flops,
        "memory": bytes_for,
        "memory_in_all": fixed + one.kept,
        "fits": fixed + one.kept <= ROOM * memory,
        "largest_batch": max(0, int((ROOM * memory - fixed) / one.kept * settings.batch_size)),
        "steps_a_second": steps_a_second,
        "days": days,
        "gpu_days": days and days * gpus,
    }


def parts(model):
    """{part: parameters} of a model's parts and of the parts of its networks, the largest first; small ones together."""
    counts = {}
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[:2]) if name.count(".") > 1 else name.split(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    least = SHOWN * sum(counts.values())
    shown = {part: count for part, count in sorted(counts.items(), key=lambda item: -item[1]) if count >= least}
    rest = sum(counts.values()) - sum(shown.values())
    return shown | ({"the rest": rest} if rest else {})


def table(found):
    """The figures of a plan as lines of Markdown."""
    ways = found["ways"]
    batch = found["batch"] * found["accumulate"] * found["gpus"]
    card = f"{found['gpus']} x {found['gpu']}, {found['strategy']}, {found['precision']}"
    all_parts = ", ".join(f"{part} {count / 1e6:,.1f} M" for part, count in found["parts"].items())
    lines = [
        f"{found['config']}: {found['kind']} of {found['parameters'] / 1e6:,.1f} M parameters ({all_parts})",
        f"{card}, {found['batch']} samples a pass on each, {batch:,} a step; computed on paper, not measured",
        "",
        "| a step, on each GPU | " + " | ".join(ways) + " |",
        "|---|" + "---|" * len(ways),
    ]

    def row(name, text):
        lines.append(f"| {name} | " + " | ".join(text(one) for one in ways.values()) + " |")

    row("TFLOP", lambda one: f"{one['flops'] / 1e12:,.3g}")
    for name in next(iter(ways.values()))["memory"]:
        row(f"{name}, GB", lambda one: f"{one['memory'][name] / GB:,.2f}")
    row(f"memory in all, of {found['memory_of_gpu'] / GB:.0f} GB",
        lambda one: f"{one['memory_in_all'] / GB:,.1f}, {'fits' if one['fits'] else 'does not fit'}")  # fmt: skip
    row("largest batch that fits", lambda one: f"{one['largest_batch']:,}")
    row(f"steps a second, at {found['utilisation']:.0%} of the peak", lambda one: f"{one['steps_a_second']:,.3g}")
    if found["steps"]:
        row(f"GPU-days for {found['steps']:,} steps", lambda one: f"{one['gpu_days']:,.3g} ({one['days']:,.3g} days)")
    return lines


def save(found, path):
    """Write the figures of a plan as JSON."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

"""What a training step takes: floating-point operations, and bytes by what they are for."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..networks.checkpointing import Checkpointing
from ..training.optimizers import build_optimizer
from .gpu import AsOnGPU
from .kept import Kept


@dataclass(frozen=True)
class Pass:
    """A forward and a backward pass of one batch.

    flops: of both, and of what frozen modules do beside them. Of a matrix product or a convolution, a multiplication and an
    addition are two; nothing else counts. What is computed again counts again: whole layers where gradients are
    checkpointed, the scores of attention always.
    kept: bytes of activations that wait for the backward pass, with the largest layer's where layers are computed again.
    casts: bytes of the weights in half precision that wait with them.
    """

    flops: int
    kept: int
    casts: int


@dataclass(frozen=True)
class Step:
    """A training step: its passes, {"plain": Pass, "checkpointed": Pass (not of a CLIP)}, and what the optimizer adds: FLOP
    of its matrix products, and bytes of its moments."""

    passes: dict[str, Pass]
    optimizer_flops: int
    moments: int


def step_of(subject, half=None):
    """The `Step` of a Subject. half: the dtype of mixed precision; None: float32."""
    networks = [module for module in subject.model.modules() if isinstance(module, Checkpointing)]
    subject.model.train()
    plain, layers = one_pass(subject, half, networks)
    flops, moments = stepped(subject)
    passes = {"plain": plain}
    if networks:
        for network in networks:
            network.gradient_checkpointing = True
        again, _ = one_pass(subject, half, networks)
        kept, casts = (max(sizes) for sizes in zip(*layers))
        passes["checkpointed"] = Pass(again.flops, again.kept + kept, again.casts + casts)
    return Step(passes, flops, moments)


def one_pass(subject, half, networks):
    """A `Pass`, and (kept, casts) of each layer of the networks, which the pass leaves with gradients."""
    gpu, kept = AsOnGPU(half), Kept(subject.model)
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            subject.beside()
        with gpu, kept, watched(networks, gpu, lambda: split(kept, gpu)) as layers:
            loss = subject.loss()
            waiting = split(kept, gpu)
        loss.backward()
    return Pass(counter.get_total_flops(), *waiting), layers


def split(kept, gpu):
    """The bytes kept so far: (activations, weights in half precision)."""
    casts = kept.bytes_of(gpu.casts.values())
    return kept.bytes - casts, casts


@contextmanager
def watched(networks, gpu, measure):
    """A list that gets what each layer of the networks adds to `measure()` while it lasts.

    A layer that is computed again in the backward pass, which leaves all modes, computes as on a GPU there too.
    """
    added = []

    def of(network):
        def run(layer, *args):
            before = measure()
            result = Checkpointing.run(network, gpu.over(layer), *args)
            added.append(tuple(after - b for after, b in zip(measure(), before)))
            return result

        return run

    for network in networks:
        network.run = of(network)
    try:
        yield added
    finally:
        for network in networks:
            del network.run


def stepped(subject):
    """Take the optimizer's first step: FLOP of its matrix products, and the bytes of what it keeps."""
    optimizer = build_optimizer(subject.model, subject.config.optimizer)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    optimizer.zero_grad()
    kept = (value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value))
    return counter.get_total_flops(), sum(value.untyped_storage().nbytes() for value in kept)

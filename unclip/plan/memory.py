"""What a training step holds on each GPU, by the strategy that several of them share it with."""

from ..training.sharding import BLOCKS

STRATEGIES = ("ddp", "fsdp", "zero2", "zero3")
BUCKET = 500_000_000  # numbers in one of DeepSpeed's buckets, its default
LIVE = 1_000_000_000  # numbers that ZeRO-3 keeps gathered at most, its default
ROOM = 0.9  # of a card's memory, that is counted on: libraries, the CUDA context and the allocator's gaps take the rest


def held(model, frozen, moments, strategy, gpus, half_bytes=None):
    """{what for: bytes on each GPU} of a model in training, besides activations.

    Weights, gradients, moments and the EMA copy are float32. With mixed precision FSDP gathers weights in half precision.
    DeepSpeed has a second copy of the weights beside the moments, the one that learns (see training/zero.py).

    model: on whatever device; frozen: bytes of other modules, whole on each GPU; moments: bytes of the optimizer, undivided.
    half_bytes: of a number in half precision; None: no mixed precision.

    The EMA copy is taken to be divided as the weights are.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    state = sum(tensor.nbytes for tensor in model.state_dict().values())
    if strategy == "ddp":
        rows = {"weights": state, "gradients": 4 * trained, "moments": moments, "EMA": state}
        return rows | {"buckets": 4 * trained if gpus > 1 else 0, "frozen": frozen}
    if strategy == "fsdp":
        rows = {"weights": state, "gradients": 4 * trained, "moments": moments, "EMA": state}
        undivided = {"gathered": gathered(model) * (half_bytes or 4), "frozen": frozen}
        return {name: value / gpus for name, value in rows.items()} | undivided
    whole = 1 if strategy == "zero2" else gpus
    return {
        "weights": state / whole,
        "gradients": 4 * trained / gpus,
        "moments": (moments + 4 * trained) / gpus,
        "EMA": state / whole,
        "buckets": 2 * 4 * min(BUCKET, trained),
        **({"gathered": 4 * min(LIVE, trained)} if strategy == "zero3" else {}),
        "frozen": frozen,
    }


def gathered(model):
    """How many numbers FSDP has gathered at a time, at most: the largest unit's weights, the next one's, which are
    fetched ahead, and its gradients, and all that is in no unit."""
    units = [sum(p.numel() for p in module.parameters()) for module in model.modules() if type(module).__name__ in BLOCKS]
    return sum(p.numel() for p in model.parameters()) - sum(units) + 3 * max(units, default=0)

"""GPUs: what they compute at most, and what they hold."""

from typing import NamedTuple

GB = 1e9


class Card(NamedTuple):
    """flops: dense FLOP/s in bfloat16 by the tensor cores, at most; in TensorFloat-32 each of these has half of it.
    memory: in bytes."""

    name: str
    flops: float
    memory: float


# NVIDIA's data sheets, the figures without sparsity, where a sheet gives those with it halved:
# A100: "NVIDIA A100 Tensor Core GPU", datasheet of June 2021: 312 TFLOPS, 40 or 80 GB.
# H100 SXM: "NVIDIA H100 Tensor Core GPU", datasheet: 1,979 TFLOPS with sparsity, 80 GB. H200: its datasheet, 141 GB.
# RTX 4090: "NVIDIA Ada GPU Architecture", whitepaper, appendix A: 165.2 TFLOPS with FP32 accumulation, 24 GB.
CARDS = {
    "a100-40": Card("A100 40 GB", 312e12, 40 * GB),
    "a100-80": Card("A100 80 GB", 312e12, 80 * GB),
    "h100": Card("H100 SXM", 989.5e12, 80 * GB),
    "h200": Card("H200", 989.5e12, 141 * GB),
    "rtx4090": Card("RTX 4090", 165.2e12, 24 * GB),
}

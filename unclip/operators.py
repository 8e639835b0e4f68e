"""torchvision beside PyTorch's CPU build. What imports torchvision, open_clip and timm do, calls this first."""

import functools

import torch


@functools.cache
def declare_operators():
    """Import torchvision, also where its compiled operators cannot load. Gives what holds their schemas, or None.

    PyPI's torchvision wheel is built for the CUDA build of torch; beside the CPU build its operators do not load, and
    its import fails on the missing schema of `torchvision::nms`. Nothing here uses these operators, so declaring the
    two schemas is enough.
    """
    try:
        import torchvision  # noqa: F401  (loads, or fails as described)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operator):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library  # the schemas live as long as this object, and the cache keeps it

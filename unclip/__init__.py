"""unclip: text to image in four steps, CLIP text -> prior -> decoder -> upsampler (Ramesh et al. 2022).

`import unclip` costs nothing: the classes below load on first use.
"""

from importlib import import_module

_HOMES = {
    "UnCLIP": "unclip.pipeline",
    "FrozenCLIP": "unclip.clip",
    "DiffusionPrior": "unclip.prior",
    "Decoder": "unclip.decoder",
    "Upsampler": "unclip.upsampler",
}
__all__ = list(_HOMES)


def __getattr__(name):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'unclip' has no attribute {name!r}")

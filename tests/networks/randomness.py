"""Random weights for modules whose last layers start at zero: without them a parity test compares zero with zero."""

import torch


def randomise(module, std=0.1):
    """Every parameter anew: norms around one, the rest around zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = std * torch.randn(parameter.shape, generator=generator)
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + noise if is_scale else noise)
    return module.eval()


def erase(module):
    """NaN everywhere, so that a parameter which a key mapping forgets cannot go unseen."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(float("nan"))
    return module.eval()

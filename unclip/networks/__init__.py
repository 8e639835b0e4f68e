"""Networks: torch modules from (x_t, t, conditioning) to a raw output. They know no schedule, no guidance, no CLIP."""

from .prior_transformer import PriorTransformer
from .unet import UNet

__all__ = ["PriorTransformer", "UNet"]

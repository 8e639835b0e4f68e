"""What a training can be asked for that leaves its weights, and their names, as they are: how it is computed."""

from ..errors import UserError
from ..networks import PriorTransformer, UNet


def checkpoint_gradients(model):
    """Have the networks of a model compute their layers again in the backward pass, see networks/checkpointing.py."""
    for network in networks_of(model, "gradient_checkpointing"):
        network.gradient_checkpointing = True


def networks_of(model, setting):
    """The U-Nets and transformers of a model. Raises UserError where there are none, for a setting that is about them."""
    networks = [module for module in model.modules() if isinstance(module, (UNet, PriorTransformer))]
    if not networks:
        raise UserError(f"train.{setting} is for priors, decoders and upsamplers, not for a {type(model).__name__}: leave it out")
    return networks

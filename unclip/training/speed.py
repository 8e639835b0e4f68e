"""What a training can be asked for that leaves its weights, and their names, as they are: how it is computed."""

import functools

import torch

from ..errors import UserError, first_line
from ..networks import PriorTransformer, UNet


def checkpoint_gradients(model):
    """Have the networks of a model compute their layers again in the backward pass, see networks/checkpointing.py."""
    for network in networks_of(model, "gradient_checkpointing"):
        network.gradient_checkpointing = True


def compile_networks(model, mode):
    """Have torch.compile make what the networks of a model compute in training; without a gradient they run as they are.

    Validation and drawing come in batches of other sizes, each of which would be compiled for itself, and the CUDA graphs
    of some modes overwrite there what a network was just told. The methods are replaced, not the modules, whose
    parameters keep their names.

    mode: of torch.compile.
    """
    for network in networks_of(model, "compile"):
        for name in ("read", "denoise"):
            setattr(network, name, compiled_for_training(getattr(network, name), mode))


def compiled_for_training(function, mode):
    """A function that is compiled where it is called with gradients on. Raises UserError where the compiler fails."""
    compiled = torch.compile(function, mode=mode)

    @functools.wraps(function)
    def call(*args, **options):
        if not torch.is_grad_enabled():
            return function(*args, **options)
        try:
            return compiled(*args, **options)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise UserError(f"train.compile={mode}: {first_line(error, 2)}; use --set train.compile=null") from error

    return call


def allow_tf32(model, accelerator):
    """Where float32 trains on CUDA, multiply matrices in TensorFloat-32, as cuDNN's convolutions do without being told.

    Not for a CLIP: ten bits are too coarse for its cosines times 100.
    """
    denoises = any(isinstance(module, (UNet, PriorTransformer)) for module in model.modules())
    if denoises and accelerator.device.type == "cuda" and accelerator.mixed_precision == "no":
        torch.set_float32_matmul_precision("high")


def networks_of(model, setting):
    """The U-Nets and transformers of a model. Raises UserError where there are none, for a setting that is about them."""
    networks = [module for module in model.modules() if isinstance(module, (UNet, PriorTransformer))]
    if not networks:
        kind = type(model).__name__
        raise UserError(f"train.{setting} is for priors, decoders and upsamplers, not for a {kind}: leave it out")
    return networks

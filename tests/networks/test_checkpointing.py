"""Gradient checkpointing changes what is kept for the backward pass, and nothing else."""

import pytest
import torch

from unclip.networks import PriorTransformer, UNet
from unclip.networks.prior_transformer import TransformerBlock
from unclip.networks.unet import Layer

from .randomness import randomise


def unet():
    net = UNet(in_channels=3, out_channels=6, channels=16, multipliers=[1, 2], num_res_blocks=1, attention_levels=[1],
               middle_attention=True, head_dim=8, context_dim=5, norm="layer", dropout=0.3)  # fmt: skip
    return net, Layer, (torch.randn(2, 3, 8, 8), torch.tensor([3, 700]), torch.randn(2, net.time_embed_dim),
                        torch.randn(2, 3, 5), torch.tensor([[True, False, True], [True] * 3]))  # fmt: skip


def prior():
    net = PriorTransformer(embed_dim=12, text_dim=10, text_length=5, width=16, layers=3, heads=4)
    return net, TransformerBlock, (torch.randn(2, 12), torch.tensor([3, 700]), torch.randn(2, 12), torch.randn(2, 5, 10),
                                   torch.tensor([[True, True, True, False, False], [True] * 5]))  # fmt: skip


@pytest.fixture(params=[unet, prior])
def network(request):
    net, layer, inputs = request.param()
    return randomise(net).double().train(), layer, [x.double() if x.is_floating_point() else x for x in inputs]


def trained(net, inputs):
    """What a step leaves behind: the loss, the gradients of inputs and parameters, and the random state."""
    inputs = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    net.zero_grad()
    torch.manual_seed(7)
    loss = net(*inputs).square().sum()
    loss.backward()
    grads = {name: p.grad.clone() for name, p in net.named_parameters()}
    return loss.detach(), grads | {k: x.grad for k, x in enumerate(inputs) if x.requires_grad}, torch.get_rng_state()


def kept_bytes(net, inputs):
    """Bytes of tensors, apart from weights, that a forward pass leaves for the backward pass."""
    weights, seen = {p.untyped_storage().data_ptr() for p in net.parameters()}, {}

    def pack(x):
        seen[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = net(*inputs)
    del out
    return sum(x.untyped_storage().nbytes() for address, x in seen.items() if address not in weights)


def test_loss_gradients_and_random_state_are_those_without(network):
    net, _, inputs = network
    plain = trained(net, inputs)
    net.gradient_checkpointing = True
    again = trained(net, inputs)
    torch.testing.assert_close(again[0], plain[0], rtol=1e-12, atol=0)
    assert again[1].keys() == plain[1].keys() and all(g.abs().max() > 0 for g in plain[1].values())
    for name in plain[1]:
        torch.testing.assert_close(again[1][name], plain[1][name], rtol=1e-10, atol=1e-12, msg=str(name))
    assert torch.equal(again[2], plain[2])


def test_dropout_is_drawn_anew_in_every_step():
    """Were it not, the test above would compare two networks without."""
    net, _, inputs = unet()
    net = randomise(net).train()
    net.gradient_checkpointing = True
    assert not torch.allclose(net(*inputs), net(*inputs))


def test_layers_run_twice_where_there_is_a_gradient_and_once_elsewhere(network):
    net, kind, inputs = network
    counts = {}
    for layer in (module for module in net.modules() if isinstance(module, kind)):
        layer.register_forward_pre_hook(lambda module, *_: counts.update({module: counts.get(module, 0) + 1}))
    runs = {}
    for on in (False, True):
        net.gradient_checkpointing = on
        for grad in (False, True):
            counts.clear()
            with torch.set_grad_enabled(grad):
                out = net(*inputs)
            if grad:
                out.sum().backward()
            runs[on, grad] = sum(counts.values())
    assert runs[False, False] == runs[False, True] == runs[True, False] > 2
    assert runs[True, True] == 2 * runs[False, True]


def test_less_is_kept(network):
    net, _, inputs = network
    plain = kept_bytes(net, inputs)
    net.gradient_checkpointing = True
    assert kept_bytes(net, inputs) < 0.6 * plain


def test_it_is_no_part_of_the_weights(network):
    net, _, _ = network
    before = net.state_dict().keys()
    net.gradient_checkpointing = True
    assert net.state_dict().keys() == before

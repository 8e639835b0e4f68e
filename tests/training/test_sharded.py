"""FSDP gathers the weights of a block while its `forward` runs, or another method of which it was told: all that a loss reads of
a block has to come through these. configs/accelerate/nodes_fsdp.yaml counts on that."""

import copy

import pytest
import torch
import torch.distributed as dist
from conftest import CONVOLUTIONS, TEXT_WIDTH
from networks.randomness import randomise
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from unclip.training.loop import ForwardIsLoss, initialise
from unclip.training.sharding import BLOCKS, gather_for_methods, in_pieces, put_back, wholes
from unclip.upsampler import Upsampler


@pytest.fixture
def alone():
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("part", ["prior", "decoder", "upsampler"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_step_is_the_same_with_blocks_gathered_one_by_one(alone, make_prior, make_decoder, batch, part, checkpointed):
    model = {
        "prior": make_prior, "decoder": lambda: make_decoder(text_dim=TEXT_WIDTH),
        "upsampler": lambda: randomise(Upsampler(unet=CONVOLUTIONS, image_size=8, scale=2)),
    }[part]()  # fmt: skip
    sharded = ForwardIsLoss(copy.deepcopy(model))
    for module in sharded.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = checkpointed
    blocks = [module for module in sharded.modules() if type(module).__name__ in BLOCKS]
    for block in blocks:
        fully_shard(block, mesh=alone)
    fully_shard(sharded, mesh=alone)
    gather_for_methods(sharded)
    losses = []
    for one in (ForwardIsLoss(model), sharded):
        torch.manual_seed(7)
        losses.append(one(batch))
        losses[-1].mean().backward()
    torch.testing.assert_close(losses[1], losses[0])
    expected = dict(model.named_parameters())
    assert blocks and expected
    for name, parameter in sharded.model.named_parameters():
        torch.testing.assert_close(parameter.grad.full_tensor(), expected[name].grad, msg=name)


def test_weights_from_a_file_come_into_their_pieces(alone, make_decoder, tmp_path):
    """As `train.init_from` and a checkpoint bring them; other shapes and names are refused as they are without pieces."""
    start, model = make_decoder(), ForwardIsLoss(make_decoder())
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    fully_shard(model, mesh=alone)
    start.save(tmp_path, None)
    initialise(model.model, tmp_path / "model.safetensors")
    found = wholes(model.model.state_dict())
    assert in_pieces(model.model.state_dict()) and found.keys() == start.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in start.state_dict().items())
    for state in ({"null_image": torch.zeros(3)}, {"other": torch.zeros(3)}):
        with pytest.raises(RuntimeError, match="size mismatch" if "null_image" in state else "Unexpected key"):
            put_back(model.model, {**model.model.state_dict(), **state})

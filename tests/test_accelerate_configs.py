"""The configs of `accelerate launch`, read by accelerate itself."""

import os

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from training.test_processes import REPOSITORY

from unclip.networks.attention import AttentionBlock
from unclip.training.loop import ForwardIsLoss

CONFIGS = sorted((REPOSITORY / "configs" / "accelerate").glob("*.yaml"))


def launched(path, *argv):
    """The arguments that accelerate makes of a launch with a config."""
    args = launch_command_parser().parse_args(["--config_file", str(path), *argv, "scripts/train_prior.py"])
    return _validate_launch_command(args)[0]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_it_and_takes_its_launch(path):
    """An unknown key, or numbers that contradict each other, is an error of its."""
    config = load_config_from_file(str(path))
    args = launched(path)
    assert args.num_processes == config.num_processes >= 1 and args.num_machines == config.num_machines
    assert args.mixed_precision == config.mixed_precision
    kinds = {"FSDP": "use_fsdp", "DEEPSPEED": "use_deepspeed", "MULTI_GPU": "multi_gpu"}
    asked = [name for name in kinds.values() if getattr(args, name)]
    assert asked == ([kinds[config.distributed_type.value]] if config.distributed_type.value in kinds else [])


@pytest.mark.parametrize("name", ["one_gpu", "one_node", "nodes_fsdp", "deepspeed_zero2", "deepspeed_zero3", "cpu"])
def test_there_is_one_for(name):
    text = (REPOSITORY / "configs" / "accelerate" / f"{name}.yaml").read_text()
    assert f"--config_file configs/accelerate/{name}.yaml" in text


def test_deepspeed_has_its_stage():
    for stage in (2, 3):
        args = launched(REPOSITORY / f"configs/accelerate/deepspeed_zero{stage}.yaml")
        assert args.zero_stage == stage


def test_fsdp_is_asked_for_and_the_training_says_what_it_gathers(monkeypatch):
    """As the processes see it: by the environment that the launcher gives them."""
    args = launched(REPOSITORY / "configs/accelerate/nodes_fsdp.yaml", "--machine_rank", "1", "--main_process_ip", "10.0.0.1")
    monkeypatch.setattr(os, "environ", {**os.environ})
    environment = prepare_multi_gpu_env(args)
    for name, value in environment.items():
        monkeypatch.setitem(os.environ, name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    block = AttentionBlock(channels=8, head_dim=8, context_dim=None, norm="layer")
    plugin.set_auto_wrap_policy(ForwardIsLoss(torch.nn.Sequential(block)))
    assert {kind.__name__ for kind in plugin.auto_wrap_policy.keywords["transformer_layer_cls"]} == {"AttentionBlock"}
    assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("8", "8", 1)

"""What DeepSpeed's ZeRO cannot do is said in one line; what it does, test_processes.py tests."""

from types import SimpleNamespace

import pytest

from unclip.errors import UserError
from unclip.training.zero import check

from .toys import config


@pytest.mark.parametrize("stage, offload, optimizer, precision, named", [
    (1, False, "adamw", "no", "zero_stage"),
    (3, True, "adamw", "no", "offload_param_device"),
    (2, False, "muon", "no", "--set optimizer.name=adamw"),
    (2, False, "adamw", "fp16", "--set train.precision=bf16"),
])  # fmt: skip
def test_it_says_what_it_cannot_do(tmp_path, stage, offload, optimizer, precision, named):
    plugin = SimpleNamespace(zero_stage=stage, hf_ds_config=SimpleNamespace(is_offload=lambda: offload))
    with pytest.raises(UserError, match=named) as error:
        check(plugin, config(tmp_path, {"name": optimizer}, precision=precision))
    assert "\n" not in str(error.value)

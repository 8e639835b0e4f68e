import pytest

from unclip.config import check
from unclip.errors import UserError
from unclip.training.config import RunConfig

FIT = {
    "data": {"folder": "x", "image_size": 8}, "optimizer": {"name": "adamw", "lr": 1.0},
    "train": {"run": "x", "batch_size": 1, "steps": 1},
}  # fmt: skip


@pytest.mark.parametrize("section, name, wrong", [
    ("data", "image_size", 10**9), ("data", "workers", 100_000), ("train", "batch_size", 10**12),
    ("train", "accumulate", 10**12), ("train", "seed", 10**15), ("train", "seed", -1),
])  # fmt: skip
def test_what_no_machine_can_do_is_refused(section, name, wrong):
    check(RunConfig, FIT)
    with pytest.raises(UserError, match=f"config: {section}.{name} = "):
        check(RunConfig, {**FIT, section: {**FIT[section], name: wrong}})

from typing import Literal, Optional

import pytest

from unclip.config import Strict, load_config, save_config, signature_model
from unclip.errors import UserError
from unclip.training.config import RunConfig


class Network:
    def __init__(self, *, width: int, levels: list[int], norm: Literal["group", "layer"] = "group", dim: Optional[int] = None):
        pass


class Model:
    def __init__(self, *, network: dict, size: int, schedule: str = "cosine", out: int = 3):
        pass


class Config(Strict):
    model: signature_model(Model, leave_out=["out"], may_miss=["size"], network=signature_model(Network))
    lr: float
    fast: bool = False
    name: Optional[str] = None


GOOD = "lr: 1e-3\nmodel:\n  size: 8\n  network: {width: 4, levels: [1, 2]}\n"
RUN = {
    "data": {"folder": "x", "image_size": 8},
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "train": {"run": "runs/x", "batch_size": 4, "steps": 5},
}


@pytest.fixture
def load(tmp_path):
    def load(text=GOOD, *overrides):
        (tmp_path / "config.yaml").write_text(text)
        return load_config(Config, tmp_path / "config.yaml", overrides)

    return load


def test_values_and_defaults(load):
    config = load()
    assert config.lr == 1e-3 and config.model.size == 8 and config.model.schedule == "cosine"
    assert config.model.network.levels == [1, 2] and config.model.network.norm == "group"
    assert load("lr: 1\nmodel: {network: {width: 4, levels: []}}").model.size is None  # may be left out


@pytest.mark.parametrize("override, read", [
    ("lr=1e-3", lambda c: c.lr == 1e-3), ("lr=-2.5e+1", lambda c: c.lr == -25), ("fast=true", lambda c: c.fast is True),
    ("fast=false", lambda c: c.fast is False), ("name=null", lambda c: c.name is None), ("name=a=b", lambda c: c.name == "a=b"),
    ("name=1e-3x", lambda c: c.name == "1e-3x"), ("name=1e5", lambda c: c.name == "1e5"), ("model.size=16", lambda c: c.model.size == 16),
    ("model.network.levels=[3, 4]", lambda c: c.model.network.levels == [3, 4]),
    ("model.network.dim=7", lambda c: c.model.network.dim == 7), ("model.network.dim=null", lambda c: c.model.network.dim is None),
])  # fmt: skip
def test_overrides(load, override, read):
    assert read(load(GOOD, override))


@pytest.mark.parametrize("override, message", [
    ("model.network.wdith=3", "unknown key 'model.network.wdith' (did you mean 'width'?)"),
    ("rl=3", "unknown key 'rl' (did you mean 'lr'?)"), ("model.out=3", "unknown key 'model.out'"),
    ("lr=fast", "lr = 'fast': "), ("lr=.inf", "lr = inf: "), ("model.network.width=1.5", "model.network.width = 1.5: "),
    ("model.network.norm=gruop", "model.network.norm = 'gruop': "), ("model.network=3", "model.network = 3: "),
    ("model.network.levels=3", "model.network.levels = 3: "), ("model.size=[1]", "model.size = [1]: "),
    ("lr", "--set lr: write it as key=value"), ("=3", "write it as key=value"),
])  # fmt: skip
def test_wrong_settings_end_in_a_line(load, override, message):
    with pytest.raises(UserError) as error:
        load(GOOD, override)
    assert message in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("text, message", [
    ("lr: 1\nmodel: {size: 1}", "'model.network' is missing"), ("model: {}", "is missing"), ("[1, 2]", "holds no settings"),
    ("", "holds no settings"), ("lr: {", "is not YAML"), ("lr: \x01", "is not YAML"),
])  # fmt: skip
def test_wrong_files_end_in_a_line(load, text, message):
    with pytest.raises(UserError) as error:
        load(text)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(UserError, match="no config file"):
        load_config(Config, tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not YAML"):
        load_config(Config, tmp_path / "binary.yaml")


def test_saved_config_is_read_as_the_same(load, tmp_path):
    config = load(GOOD, "name=x", "model.network.dim=null")
    save_config(config, tmp_path / "saved.yaml")
    again = load_config(Config, tmp_path / "saved.yaml")
    assert again == config and "dim" not in (tmp_path / "saved.yaml").read_text()


@pytest.mark.parametrize("override", [
    "train.batch_size=0", "train.steps=0", "train.minutes=0", "train.accumulate=0", "train.ema=2", "train.ema=1",
    "train.ema=-0.1", "train.validate_every=0", "train.sample_every=0", "train.val_samples=0", "train.checkpoint_minutes=-1",
    "train.precision=fp8", "optimizer.lr=-1e-3", "optimizer.lr=0", "optimizer.lr=.nan", "optimizer.decay=1.5",
    "optimizer.decay=-1", "optimizer.warmup=-1", "optimizer.weight_decay=-1", "optimizer.clip_norm=0",
    "optimizer.name=sgd", "train.compile=yes", "data.image_size=0", "data.workers=-1", "data.in_memory=never",
])  # fmt: skip
def test_settings_out_of_range(tmp_path, override):
    save_config(RunConfig(**RUN), tmp_path / "run.yaml")
    load_config(RunConfig, tmp_path / "run.yaml")
    with pytest.raises(UserError) as error:
        load_config(RunConfig, tmp_path / "run.yaml", [override])
    assert f"{override.split('=')[0]} = " in str(error.value).replace(".bool", "") and "\n" not in str(error.value)


@pytest.mark.parametrize("override, message", [
    ("train.steps=null", "set train.steps or train.minutes"), ("optimizer.betas=[0.9, 1.0]", "betas are"),
])  # fmt: skip
def test_settings_that_do_not_go_together(tmp_path, override, message):
    save_config(RunConfig(**RUN), tmp_path / "run.yaml")
    with pytest.raises(UserError, match=message):
        load_config(RunConfig, tmp_path / "run.yaml", [override])


# ---- files of strangers ----------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{k}: &{k} [{', '.join([f'*{chr(ord(k) - 1)}'] * 8)}]\n" for k in "bcdefghijklmnopqrstuvw"
)


@pytest.mark.parametrize("text, says", [
    (LAUGHS, "more than 10,000 values"), (LAUGHS.replace("x, x", "*a, x"), "not YAML"),
    ("lr: &a [*a]", "more than 10,000 values"), ("lr: " + "[" * 1000, "nested too deeply"),
    ("# " + "x" * 300_000, "more than 256,000 bytes"), ("lr: 2024-13-45", "not YAML"), ("lr: !!int x", "not YAML"),
    ("lr: " + "1" * 5000, "not YAML"), ("lr: !!python/object/apply:os.getcwd []", "not YAML"),
    (GOOD + "fast: 0x" + "f" * 20_000, "fast = "), ("1: 2", "config.yaml: "),
    ("name: [[[[[[[[[[1]]]]]]]]]]\n" + GOOD, "name = "), ('"\\e[2J": 1\n' + GOOD, "unknown key"),
])  # fmt: skip
def test_any_file_ends_in_one_line(load, text, says):
    with pytest.raises(UserError, match=says) as error:
        load(text)
    assert str(error.value).isprintable() and len(str(error.value)) < 600


def test_aliases_that_repeat_little_are_fine(load):
    assert load("lr: 1\nmodel: {size: &n 8, network: {width: *n, levels: [*n, *n]}}").model.network.levels == [8, 8]


@pytest.mark.parametrize("name", ["a\\0b", "a\\ud800b"])
def test_what_can_be_no_name_of_a_file_is_refused(tmp_path, name):
    (tmp_path / "x.yaml").write_text(f'run: "{name}"')
    with pytest.raises(UserError, match="x.yaml is not YAML: it has a null, or half a character, in it"):
        load_config(Strict, tmp_path / "x.yaml")

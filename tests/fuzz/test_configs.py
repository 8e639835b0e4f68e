from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unclip.config import load_config, save_config
from unclip.errors import UserError
from unclip.training.distillation import DistillRun
from unclip.training.runs import ClipRun, DecoderRun, PriorRun, UpsamplerRun

from .mutations import changed, damaged, values

POCKET = Path(__file__).resolve().parents[2] / "configs" / "pocket"
KINDS = {"clip-both": ClipRun, "prior": PriorRun, "decoder": DecoderRun, "upsampler": UpsamplerRun, "distill": DistillRun}
TEXTS = {name: (POCKET / f"{name}.yaml").read_bytes() for name in KINDS}
BOMB = b"a: &a [x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n" % (k, k, *[k - 1] * 8) for k in range(ord("b"), ord("z"))
)
MERGES = b"a: &a {x: 1}\n" + b"".join(
    b"%c: &%c {<<: [*%c, *%c, *%c]}\n" % (k, k, k - 1, k - 1, k - 1) for k in range(ord("b"), ord("z"))
)
ODD = [
    BOMB, MERGES, BOMB + b"data: *y", MERGES + b"data: *y", b"[" * 200, b"a: &a [*a]", b"a: 2024-99-99", b"a: !!int x",
    b"a: !!python/object/apply:os.system [x]", b"? [1]\n: 2", b"a: !!binary \xc3\xa9", b"1: 2", b"null: 1", b"2024-01-01: 1",
    b"a: " + b"1" * 5000, b"a: 0x" + b"f" * 50_000, b"!!set {a, b}", b"- x", b"a: 190:20:30" + b":59" * 3000, b"&a a: *a",
    b"\xff\xfe", b"", b"x" * 300_000,
]  # fmt: skip


@st.composite
def yamls(draw, name):
    """A config file's bytes, from one that is right."""
    kind = draw(st.sampled_from(["value", "value", "bytes", "odd", "random"]))
    if kind == "value":
        wrong = draw(changed(yaml.safe_load(TEXTS[name])))
        return yaml.safe_dump(wrong, allow_unicode=True).encode("utf-8", "surrogatepass") if small(wrong) else b""
    if kind == "bytes":
        return draw(damaged(TEXTS[name]))
    return draw(st.sampled_from(ODD) | st.binary(max_size=60)) if kind == "odd" else draw(st.binary(max_size=200))


def small(value):
    """Whether Python writes the numbers of a value: none has thousands of digits."""
    try:
        return bool(repr(value))
    except ValueError:
        return False


def paths(value, before=""):
    """The dotted names of what a config sets."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield before + key
        yield from paths(inner, f"{before}{key}.")


@st.composite
def overrides(draw, name):
    key = draw(st.sampled_from(sorted(paths(yaml.safe_load(TEXTS[name])))) | st.text(max_size=12))
    written = values.map(lambda v: str(v) if small(v) else "9" * 5000)
    value = draw(written | st.text(max_size=12) | st.sampled_from(["*a", "&a", "[" * 200, "{", "!!x"]))
    return f"{key}{draw(st.sampled_from(['=', '', '.x=', '..=']))}{value}"


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
def test_any_file_is_a_config_or_one_line(tmp_path_factory, name, data):
    folder = tmp_path_factory.getbasetemp()
    path, content = folder / "config.yaml", data.draw(yamls(name) | st.just(TEXTS[name]))
    path.write_bytes(content)
    try:
        config = load_config(KINDS[name], path, data.draw(st.lists(overrides(name), max_size=3)))
    except UserError as error:
        assert "\n" not in str(error) and str(error).encode()
        return
    assert isinstance(config, KINDS[name])
    save_config(config, folder / "again.yaml")
    assert load_config(KINDS[name], folder / "again.yaml") == config

import errno
import json
import os
import signal

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from unclip.cli import disk_is_full
from unclip.config import load_config
from unclip.errors import UserError
from unclip.training import checkpoint
from unclip.training.config import RunConfig
from unclip.training.loop import train

from .toys import TRUTH, Batches, Line, config


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def run(model, settings, batches=None, **options):
    """Train; returns what was exported last, the averaged weights."""
    exported = []
    options.setdefault("export", lambda m: exported.append(weights(m)))
    train(model, batches or Batches(settings.train.batch_size), [Batches(32).at(999)], settings, **options)
    return exported[-1] if exported else None


def saved(folder, name):
    return load_file(folder / "checkpoint" / f"{name}.safetensors")


def test_it_converges_and_says_so(tmp_path):
    model = Line()
    averaged = run(model, config(tmp_path, {"lr": 0.1, "decay": 0.5}, steps=150, validate_every=50))
    torch.testing.assert_close(model.linear.weight, TRUTH, atol=0.02, rtol=0)
    torch.testing.assert_close(averaged["linear.bias"], torch.tensor([0.25]), atol=0.02, rtol=0)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [50, 100, 150]
    assert log[0]["val_loss"] > log[1]["val_loss"] > log[2]["val_loss"] and log[2]["val_loss"] < 1e-3
    assert log[2]["images"] == 150 * 8 and {"train_loss", "gradient_norm", "val_loss_t0-20%", "val_loss_t80-100%"} <= set(log[0])
    fifths = [log[0][f"val_loss_t{k}-{k + 20}%"] for k in range(0, 100, 20)]
    assert min(fifths) <= log[0]["val_loss"] <= max(fifths)


def test_saved_config_is_the_config(tmp_path):
    settings = config(tmp_path, steps=1)
    run(Line(), settings)
    assert load_config(RunConfig, tmp_path / "config.yaml") == settings


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path, optimizer):
    options = {"name": optimizer, "lr": 0.03, "warmup": 3}
    straight, broken = Line(noisy=True), Line(noisy=True)
    ema = run(straight, config(tmp_path / "a", options))
    run(broken, config(tmp_path / "b", options, steps=5))
    torch.manual_seed(99)
    resumed = Line(noisy=True)
    torch.nn.init.ones_(resumed.linear.weight)  # to be overwritten
    resumed_ema = run(resumed, config(tmp_path / "b", options))
    assert not torch.equal(broken.linear.weight, straight.linear.weight)
    for one, other in ((weights(straight), weights(resumed)), (ema, resumed_ema)):
        for name in one:
            assert torch.equal(one[name], other[name]), name
    for name in ("optimizer", "ema", "model"):
        a, b = saved(tmp_path / "a", name), saved(tmp_path / "b", name)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    counters = [json.loads((tmp_path / f / "checkpoint" / "counters.json").read_text()) for f in "ab"]
    assert [c["step"] for c in counters] == [10, 10] and [c["ema_steps"] for c in counters] == [10, 10]
    assert [c["images"] for c in counters] == [80, 80]


def test_two_batches_of_four_are_one_of_eight(tmp_path):
    whole, parts = Line(), Line()
    run(whole, config(tmp_path / "a", steps=3, batch_size=8))
    run(parts, config(tmp_path / "b", steps=3, batch_size=4, accumulate=2))
    torch.testing.assert_close(whole.linear.weight, parts.linear.weight, atol=1e-6, rtol=0)
    # AdamW's steps hardly depend on the gradient's scale; its first moment does
    a, b = saved(tmp_path / "a", "optimizer"), saved(tmp_path / "b", "optimizer")
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=1e-4)
    assert a["0.step"] == 3 and parts.seen == 6
    assert json.loads((tmp_path / "b" / "checkpoint" / "counters.json").read_text())["images"] == 24


def test_a_loss_that_is_not_finite_ends_in_a_line_and_keeps_the_checkpoint(tmp_path):
    class Diverging(Batches):
        def at(self, step):
            return {**super().at(step), "scale": float("nan") if step == 7 else 1.0}

    run(Line(), config(tmp_path, steps=5))
    before = saved(tmp_path, "model")
    with pytest.raises(UserError, match="the loss is nan at step .*: lower optimizer.lr; the last checkpoint is kept"):
        run(Line(), config(tmp_path, checkpoint_minutes=0), Diverging())
    kept = saved(tmp_path, "model")
    assert all(torch.isfinite(v).all() for v in kept.values()) and kept.keys() == before.keys()
    assert all(torch.isfinite(v).all() for v in saved(tmp_path, "ema").values())


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_loses_nothing(tmp_path, by):
    straight, model = Line(noisy=True), Line(noisy=True)
    run(straight, config(tmp_path / "a"))
    model.harm = lambda seen: os.kill(os.getpid(), by) if seen == 4 else None
    before = signal.getsignal(by)
    with pytest.raises(KeyboardInterrupt):
        run(model, config(tmp_path / "b"))
    assert signal.getsignal(by) is before
    assert json.loads((tmp_path / "b" / "checkpoint" / "counters.json").read_text())["step"] == 4
    resumed = Line(noisy=True)
    run(resumed, config(tmp_path / "b"))
    assert torch.equal(resumed.linear.weight, straight.linear.weight)


def full_disk(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_of_safetensors(*args, **options):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("full", [full_disk, full_disk_of_safetensors])
@pytest.mark.parametrize("file", ["model", "ema", "optimizer"])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, full, file):
    run(Line(), config(tmp_path, steps=5))
    before = {p.name: p.read_bytes() for p in (tmp_path / "checkpoint").iterdir()}
    monkeypatch.setattr(checkpoint, "save_file", lambda t, path: full() if path.stem == file else save_file(t, path))
    with pytest.raises((OSError, SafetensorError)) as error:
        run(Line(), config(tmp_path))
    assert disk_is_full(error.value)  # which scripts turn into a line
    assert {p.name: p.read_bytes() for p in (tmp_path / "checkpoint").iterdir()} == before
    assert not list(tmp_path.glob(".checkpoint*"))
    monkeypatch.undo()
    model = Line()
    run(model, config(tmp_path))
    assert json.loads((tmp_path / "checkpoint" / "counters.json").read_text())["step"] == 10


def test_a_run_that_is_over_exports_again_and_trains_no_more(tmp_path):
    first = run(Line(), config(tmp_path))
    model = Line()
    again = run(model, config(tmp_path))
    assert all(torch.equal(first[k], again[k]) for k in first) and model.seen == 10  # as loaded


def test_minutes_end_a_run_and_drive_the_decay(tmp_path, monkeypatch):
    import unclip.training.loop as loop

    class Clock:
        now = 0.0

        @classmethod
        def monotonic(cls):
            return cls.now

    def tick(seen):
        Clock.now += 6.0  # a step takes six seconds

    monkeypatch.setattr(loop, "time", Clock)
    rates = []
    true_rate = loop.rate_at
    monkeypatch.setattr(loop, "rate_at", lambda *args: rates.append(true_rate(*args)) or rates[-1])
    model = Line()
    model.harm = tick
    run(model, config(tmp_path, {"decay": 0.5}, steps=None, minutes=1))
    assert rates == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    counters = json.loads((tmp_path / "checkpoint" / "counters.json").read_text())
    assert counters["step"] == 10 and counters["seconds"] == pytest.approx(60)


def test_samples_see_the_averaged_weights_in_eval_mode(tmp_path):
    model, seen = Line(), []

    def sample(m):
        seen.append((m.training, m.linear.weight.clone()))
        return Image.new("RGB", (2, 2))

    averaged = run(model, config(tmp_path, steps=4, sample_every=2), sample=sample, metrics=lambda m: {"good": m.training + 1})
    assert [s[0] for s in seen] == [False, False] and torch.equal(seen[1][1], averaged["linear.weight"])
    assert not torch.equal(seen[1][1], model.linear.weight)
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["0000002.png", "0000004.png"]
    assert json.loads((tmp_path / "log.jsonl").read_text())["good"] == 1


def test_a_run_begins_with_given_weights(tmp_path):
    start = Line()
    torch.nn.init.constant_(start.linear.weight, 3.0)
    save_file(weights(start), tmp_path / "start.safetensors")
    model = Line()
    averaged = run(model, config(tmp_path / "a", {"lr": 1e-9}, steps=1, init_from=str(tmp_path / "start.safetensors")))
    torch.testing.assert_close(averaged["linear.weight"], torch.full((1, 3), 3.0))
    with pytest.raises(UserError, match="train.init_from=.*none"):
        run(Line(), config(tmp_path / "b", init_from=str(tmp_path / "none")))


def test_precision_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        run(Line(), config(tmp_path, precision="fp16"))
    assert not list(tmp_path.iterdir())

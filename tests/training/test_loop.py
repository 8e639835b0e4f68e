import errno
import json
import os
import signal

import pytest
import torch
from accelerate.utils import AutocastKwargs
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from unclip.cli import disk_is_full
from unclip.config import load_config
from unclip.errors import UserError
from unclip.training import checkpoint, loop
from unclip.training.config import RunConfig
from unclip.training.loop import train

from .toys import TRUTH, Batches, Line, checkpoint_of, config, counters_of


def weights(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def run(model, settings, batches=None, **options):
    """Train; returns what was exported last, the averaged weights."""
    exported = []
    options.setdefault("export", lambda m: exported.append(weights(m)))
    train(model, batches or Batches(settings.train.batch_size), [Batches(32).at(999)], settings, **options)
    return exported[-1] if exported else None


def saved(folder, name):
    return load_file(checkpoint_of(folder) / f"{name}.safetensors")


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
    counters = [counters_of(tmp_path / f) for f in "ab"]
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
    assert counters_of(tmp_path / "b")["images"] == 24


class Troubled(Batches):
    """Batches whose loss is `times` what it should be at some steps."""

    def __init__(self, times, *steps, **options):
        super().__init__(**options)
        self.times, self.steps = times, steps

    def at(self, step):
        return {**super().at(step), "scale": self.times if step in self.steps else 1.0}


def trouble_of(run):
    return [json.loads(line) for line in (run / "trouble.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("times, what", [(float("nan"), "not finite"), (float("inf"), "not finite"), (1e6, "exploded")])
def test_a_step_whose_loss_is_no_number_or_explodes_is_left_out_and_written_down(tmp_path, times, what):
    """What is trained on the other steps ends as if there had been no such step; and says which samples it was."""
    model, spared, left_out = Line(), Line(), (24, 27)
    run(model, config(tmp_path / "a", steps=30), Troubled(times, *left_out))

    class Without(Batches):
        def at(self, step):
            return super().at([step for step in range(30) if step not in left_out][step])

    run(spared, config(tmp_path / "b", steps=28), Without())
    assert torch.equal(model.linear.weight, spared.linear.weight)
    lines = [line for line in trouble_of(tmp_path / "a") if line["what"] != "spike"]
    assert [(line["step"], line["what"]) for line in lines] == [(step, what) for step in left_out]
    assert lines[1]["keys"] == Batches().at(27)["key"]
    counters = counters_of(tmp_path / "a")
    assert (counters["step"], counters["skipped_steps"], counters["ema_steps"]) == (30, 2, 28)
    log = json.loads((tmp_path / "a" / "log.jsonl").read_text())
    assert log["skipped_steps"] == 2 and log["train_loss"] < 20


@pytest.mark.parametrize("times", [float("nan"), 1e6])
def test_so_it_is_where_the_loss_is_scaled(tmp_path, monkeypatch, times):
    """As in fp16 on a GPU: here in float32 on the CPU, with a scaler of its own."""
    made = loop.make_accelerator

    def with_scaler(settings, run):
        accelerator = made(settings, run)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        accelerator.native_amp, accelerator.autocast_handler = True, AutocastKwargs(enabled=False)
        accelerator.state._mixed_precision = "fp16"
        return accelerator

    monkeypatch.setattr(loop, "make_accelerator", with_scaler)
    model, before = Line(), []
    model.harm = lambda step: before.append(model.linear.weight.detach().clone())
    run(model, config(tmp_path, steps=30), Troubled(times, 24))
    assert torch.equal(before[24], before[25]) and not torch.equal(before[25], before[26])
    counters = counters_of(tmp_path)
    assert counters["skipped_steps"] == 1 and counters["usual_loss"] < 20
    assert counters["scaler"]["scale"] == (8.0 if times == 1e6 else 4.0)


def test_trouble_without_an_end_ends_in_a_line_and_keeps_the_checkpoint(tmp_path):
    run(Line(), config(tmp_path, steps=5))
    before = saved(tmp_path, "model")
    with pytest.raises(UserError, match="the loss is nan at step 8, not finite in 3 step.* in a row: lower .*; the last"):
        run(Line(), config(tmp_path, steps=20, max_skipped=2), Troubled(float("nan"), *range(6, 20)))
    assert counters_of(tmp_path)["step"] == 5 and all(torch.equal(v, saved(tmp_path, "model")[k]) for k, v in before.items())
    run(Line(), config(tmp_path, steps=20, max_skipped=2), Troubled(float("nan"), 6, 7, 9, 10))
    assert counters_of(tmp_path)["step"] == 20 and counters_of(tmp_path)["skipped_steps"] == 4


def test_trouble_after_the_checkpoint_is_written_down_once(tmp_path):
    run(Line(), config(tmp_path, steps=5), Troubled(float("nan"), 1, 4))
    with pytest.raises(UserError, match="at step 7"):
        run(Line(), config(tmp_path, steps=20, max_skipped=2), Troubled(float("nan"), 5, 6, 7))
    assert [line["step"] for line in trouble_of(tmp_path)] == [1, 4, 5, 6, 7]
    with open(tmp_path / "trouble.jsonl", "a") as file:
        file.write('{"step": 8, "wh')  # killed
    run(Line(), config(tmp_path, steps=20, max_skipped=2), Troubled(float("nan"), 6, 9))
    assert [line["step"] for line in trouble_of(tmp_path)] == [1, 4, 6, 9]


def test_a_spike_is_trained_on_and_written_down(tmp_path):
    model, calm = Line(), Line()
    run(model, config(tmp_path / "a", steps=25, batch_size=64), Troubled(20.0, 23, batch_size=64))
    run(calm, config(tmp_path / "b", steps=25, batch_size=64))
    assert [(line["step"], line["what"]) for line in trouble_of(tmp_path / "a")] == [(23, "spike")]
    assert counters_of(tmp_path / "a")["skipped_steps"] == 0 and not (tmp_path / "b" / "trouble.jsonl").exists()
    assert not torch.equal(model.linear.weight, calm.linear.weight)


def test_what_is_on_the_tracker(tmp_path, monkeypatch):
    """Beside the losses: how the training goes and what it needs, from lines between the validations too."""
    told = []
    monkeypatch.setattr("accelerate.Accelerator.log", lambda self, values, step: told.append((step, values)))
    run(Line(), config(tmp_path, {"decay": 1.0}, log_every=4, validate_every=8))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [step for step, _ in told] == [4, 8, 10] and [values for _, values in told] == lines
    usual = {"train_loss", "gradient_norm", "learning_rate", "images_per_second", "waiting_for_data", "memory_gib",
             "ema_distance", "skipped_steps", "images", "seconds"}  # fmt: skip
    assert all(usual <= set(line) for line in lines) and ["val_loss" in line for line in lines] == [False, True, True]
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.05 * (1 - (step - 1) / 10) for step in (4, 8, 10)])
    assert all(0 <= line["waiting_for_data"] <= 1 and 0.01 < line["memory_gib"] < 100 for line in lines)
    model, ema = saved(tmp_path, "model"), saved(tmp_path, "ema")
    apart, size = (torch.cat([v.flatten() for v in values]).norm() for values in (
        [model[k] - ema[k] for k in ema], ema.values()))  # fmt: skip
    assert lines[-1]["ema_distance"] == pytest.approx(float(apart / size), rel=1e-5)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_ctrl_c_loses_nothing(tmp_path, by):
    straight, model = Line(noisy=True), Line(noisy=True)
    run(straight, config(tmp_path / "a"))
    model.harm = lambda seen: os.kill(os.getpid(), by) if seen == 4 else None
    before = signal.getsignal(by)
    with pytest.raises(KeyboardInterrupt):
        run(model, config(tmp_path / "b"))
    assert signal.getsignal(by) is before
    assert counters_of(tmp_path / "b")["step"] == 4
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
    before = {p: p.read_bytes() for p in (tmp_path / "checkpoints").rglob("*") if p.is_file()}
    monkeypatch.setattr(checkpoint, "save_file", lambda t, path: full() if path.stem == file else save_file(t, path))
    with pytest.raises((OSError, SafetensorError)) as error:
        run(Line(), config(tmp_path))
    assert disk_is_full(error.value)  # which scripts turn into a line
    assert {p: p.read_bytes() for p in (tmp_path / "checkpoints").rglob("*") if p.is_file()} == before
    monkeypatch.undo()
    model = Line()
    run(model, config(tmp_path))
    assert counters_of(tmp_path)["step"] == 10


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
    counters = counters_of(tmp_path)
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

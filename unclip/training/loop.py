"""The training loop of CLIP, prior, decoder and upsampler. What differs between them is the model's own `.loss(batch)`.

`.loss(batch, generator=None)` returns (the loss of each sample (B,), its timestep as a fraction of T (B,) or None).
"""

import json
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm

from ..config import save_config
from ..errors import UserError
from .checkpoint import load_checkpoint, save_checkpoint
from .ema import EMA
from .optimizers import build_optimizer, rate_at

BUCKETS = 5


def train(model, batches, val_batches, config, *, export, sample=None, metrics=None):
    """Train a model until its steps or minutes are over. Running it again goes on where the last checkpoint stands.

    Args:
        model: a module with `.loss(batch, generator)`.
        batches: `.at(step)` gives the batch of a step for this process.
        val_batches: a list of fixed batches.
        config: a RunConfig. `config.train.run` is the folder for the checkpoint, `config.yaml`, `log.jsonl`,
            TensorBoard files, samples and the exported model.
        export: called as export(model) with the averaged weights in place, at every checkpoint.
        sample: called as sample(model) -> PIL image, now and then.
        metrics: called as metrics(model) -> dict of numbers, with every validation.

    Raises:
        UserError: neither steps nor minutes are set, or the loss is no longer finite.
    """
    settings, run = config.train, Path(config.train.run)
    if settings.steps is None and settings.minutes is None:
        raise UserError("set train.steps or train.minutes: a run needs an end")
    accelerator = make_accelerator(settings, run)
    set_seed(settings.seed, device_specific=True)
    model.to(accelerator.device, memory_format=torch.channels_last)
    optimizer = build_optimizer(model, config.optimizer)
    ema = EMA(model, settings.ema)
    counters = load_checkpoint(run, model, ema, optimizer)
    if counters is None:
        counters = {"step": 0, "seconds": 0.0, "images": 0}
        if settings.init_from:
            initialise(model, settings.init_from)
            ema = EMA(model, settings.ema)
    ready, optimizer = accelerator.prepare(ForwardIsLoss(model), optimizer)
    main, say = accelerator.is_main_process, accelerator.print
    if main:
        run.mkdir(parents=True, exist_ok=True)
        save_config(config, run / "config.yaml")
    if counters["step"]:
        say(f"resuming {run} at step {counters['step']}")

    def progress():
        parts = [counters["step"] / settings.steps] if settings.steps else []
        parts += [counters["seconds"] / 60 / settings.minutes] if settings.minutes else []
        share = torch.tensor(max(parts), device=accelerator.device)
        return float(broadcast(share)) if accelerator.num_processes > 1 else float(share)

    def validate():
        with EMA.Swapped(ema, model):
            figures = validation(model, val_batches, accelerator)
            figures.update(metrics(model) if metrics else {})
        return figures

    def checkpoint():
        if main:
            save_checkpoint(run, model, ema, optimizer, counters)
            with EMA.Swapped(ema, model):
                export(model)

    bar = tqdm(total=settings.steps, initial=counters["step"], disable=not main, unit="step", mininterval=5)
    saved = clock = time.monotonic()
    running = None
    while (done := progress()) < 1:
        step = counters["step"]
        for group in optimizer.param_groups:
            group["lr"] = config.optimizer.lr * rate_at(step, done, config.optimizer)
        model.train()
        for part in range(settings.accumulate):
            with accelerator.accumulate(ready):
                batch = batches.at(step * settings.accumulate + part)
                loss = ready(batch).mean()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
        ema.update(model)

        size = settings.batch_size * settings.accumulate * accelerator.num_processes
        now = time.monotonic()
        counters["seconds"] += now - clock
        rate, clock = size / max(now - clock, 1e-9), now
        counters["step"], counters["images"] = step + 1, counters["images"] + size
        value = loss.item()
        if not torch.isfinite(torch.tensor(value)):
            raise UserError(f"the loss is {value} at step {step}: lower optimizer.lr; the last checkpoint is kept")
        running = value if running is None else 0.98 * running + 0.02 * value
        left = minutes_left(counters, done)
        bar.update()
        bar.set_postfix_str(f"loss {running:.4f}, {rate:.0f} images/s, {left:.0f} min left", refresh=False)

        last = progress() >= 1
        if counters["step"] % settings.validate_every == 0 or last:
            figures = {"train_loss": running, "gradient_norm": float(norm), "images_per_second": rate, **validate()}
            if main:
                accelerator.log(figures, step=counters["step"])
                with open(run / "log.jsonl", "a") as log:
                    log.write(json.dumps({**counters, **figures}) + "\n")
                bar.write(f"step {counters['step']}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
        if sample and main and (counters["step"] % settings.sample_every == 0 or last):
            with EMA.Swapped(ema, model):
                (run / "samples").mkdir(exist_ok=True)
                sample(model).save(run / "samples" / f"{counters['step']:07d}.png")
        if last or time.monotonic() - saved > settings.checkpoint_minutes * 60:
            checkpoint()
            saved = time.monotonic()
        clock = time.monotonic()  # what validation, samples and checkpoints take is not training
    bar.close()
    accelerator.end_training()
    say(f"finished {run}: {counters['step']} steps, {counters['images']} images, {counters['seconds'] / 60:.1f} minutes")


class ForwardIsLoss(torch.nn.Module):
    """Lets wrappers that hook `forward` (DDP, autocast) see the loss as the forward pass."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return self.model.loss(batch)[0]


@torch.no_grad()
def validation(model, batches, accelerator):
    """Mean loss over fixed batches with fixed noise, in all and by timestep (fifths of T)."""
    model.eval()
    losses, times = [], []
    for k, batch in enumerate(batches):
        generator = torch.Generator().manual_seed(k)
        with accelerator.autocast():
            loss, time_share = model.loss(batch, generator=generator)
        losses.append(loss.float().cpu())
        times.append(torch.full_like(losses[-1], -1) if time_share is None else time_share.float().cpu())
    losses, times = torch.cat(losses), torch.cat(times)
    figures = {"val_loss": losses.mean().item()}
    for k in range(BUCKETS):
        inside = (times >= k / BUCKETS) & (times < (k + 1) / BUCKETS)
        if inside.any():
            figures[f"val_loss_t{k * 100 // BUCKETS}-{(k + 1) * 100 // BUCKETS}%"] = losses[inside].mean().item()
    return figures


def make_accelerator(settings, run):
    """Accelerate's object for this run; logs to TensorBoard where that is installed (pip install -e ".[train]")."""
    try:
        import tensorboard  # noqa: F401

        tracker = "tensorboard"
    except ImportError:
        tracker = None
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        gradient_accumulation_steps=settings.accumulate,
        log_with=tracker,
        project_dir=str(run),
    )
    accelerator.init_trackers("tensorboard")
    return accelerator


def initialise(model, file):
    """Begin a run with the weights of a safetensors file: every key must be there, in its shape."""
    try:
        model.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"train.init_from={file}: {' '.join(str(error).split())[:200]}") from None


def minutes_left(counters, done):
    return counters["seconds"] / 60 * (1 - done) / max(done, 1e-9)

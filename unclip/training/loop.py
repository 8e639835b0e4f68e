"""The training loop of CLIP, prior, decoder and upsampler. What differs between them is the model's own `.loss(batch)`.

`.loss(batch, generator=None)` returns (the loss of each sample (B,), its timestep as a fraction of T (B,) or None).
"""

import json
import math
import random
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm

from ..config import save_config
from ..errors import UserError
from ..files import new_file
from .checkpoint import load_checkpoint, save_checkpoint
from .ema import EMA
from .feed import fed
from .optimizers import build_optimizer, rate_at
from .precision import chosen_precision
from .processes import on_cpu
from .speed import allow_tf32, checkpoint_gradients, compile_networks
from .stop import Stop

BUCKETS = 5


def train(model, batches, val_batches, config, *, export, sample=None, metrics=None):
    """Train a model until its steps or minutes are over. Running it again goes on where the last checkpoint stands.

    Every step seeds torch's noise by the run's seed, the step and the process, so a resumed run goes as an unbroken one.

    Args:
        model: a module with `.loss(batch, generator)`.
        batches: `.at(step)` gives the batch of a step for this process; on a GPU, a thread asks for it (see feed.py).
        val_batches: a list of fixed batches.
        config: a RunConfig. `config.train.run` is the folder for the checkpoint, `config.yaml`, `log.jsonl`,
            TensorBoard files, samples and the exported model.
        export: called as export(model) with the averaged weights in place, at every checkpoint.
        sample: called as sample(model) -> PIL image, now and then.
        metrics: called as metrics(model) -> dict of numbers, with every validation.

    Raises:
        UserError: the loss is no longer finite, a checkpoint does not fit, or a setting is not for this model.
        KeyboardInterrupt: at the end of the step in which Ctrl-C or SIGTERM came, with all of it saved.
    """
    settings, run = config.train, Path(config.train.run)
    if settings.gradient_checkpointing:
        checkpoint_gradients(model)
    if settings.compile is not None:
        compile_networks(model, settings.compile)
    accelerator = make_accelerator(settings, run)
    allow_tf32(model, accelerator)
    main, say = accelerator.is_main_process, accelerator.print
    model.to(accelerator.device, memory_format=torch.channels_last)
    ready, optimizer = accelerator.prepare(ForwardIsLoss(model), build_optimizer(model, config.optimizer))
    ema = EMA(model, settings.ema)
    counters = load_checkpoint(run, model, ema, optimizer, accelerator.scaler)
    if counters is None:
        counters = {"step": 0, "seconds": 0.0, "images": 0}
        if settings.init_from:
            initialise(model, settings.init_from)
            ema = EMA(model, settings.ema)
    if main:
        run.mkdir(parents=True, exist_ok=True)
        save_config(config, run / "config.yaml")
    if counters["step"]:
        say(f"resuming {run} at step {counters['step']}")

    def progress():
        """The share of the run that is over; infinite when it is to stop. The main process decides."""
        parts = [counters["step"] / settings.steps] if settings.steps else []
        parts += [counters["seconds"] / 60 / settings.minutes] if settings.minutes else []
        several = accelerator.num_processes > 1
        place = accelerator.device if several else "cpu"  # what lies on a GPU is read after all that it has yet to do
        share = torch.tensor(math.inf if stop.asked else max(parts), device=place)
        return float(broadcast(share) if several else share)

    def checked(loss):
        value = loss.item()
        if not math.isfinite(value):
            step = counters["step"]
            raise UserError(f"the loss is {value} at step {step}: lower optimizer.lr; the last checkpoint is kept")
        return value

    def validate():
        with ema.averaged(model):
            figures = {"train_loss": checked(running), "gradient_norm": float(norm), "images_per_second": rate}
            figures |= validation(model, val_batches, accelerator)
            figures |= metrics(model) if metrics else {}
        accelerator.log(figures, step=counters["step"])
        with open(run / "log.jsonl", "a") as log:
            log.write(json.dumps({**counters, **figures}) + "\n")
        bar.write(f"step {counters['step']}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))

    def draw():
        with ema.averaged(model):
            with new_file(run / "samples" / f"{counters['step']:07d}.png") as temporary:
                sample(model).save(temporary, "PNG")

    def checkpoint():
        with ema.averaged(model):
            export(model)
        save_checkpoint(run, model, ema, optimizer, counters, accelerator.scaler)

    size = settings.batch_size * settings.accumulate * accelerator.num_processes
    running, looked, rate = None, 0.0, 0.0
    bar = tqdm(total=settings.steps, initial=counters["step"], disable=not main, unit="step", mininterval=5)
    with Stop() as stop, bar, fed(batches, accelerator.device) as batches:
        done = progress()
        if main and 1 <= done < math.inf:  # finished before; whoever removed the model gets it again
            checkpoint()
        saved = clock = time.monotonic()
        since = (clock, counters["images"])
        while done < 1:
            step = counters["step"]
            torch.manual_seed(random.Random(f"{settings.seed} {step} {accelerator.process_index}").getrandbits(32))
            lr = config.optimizer.lr * rate_at(step, done, config.optimizer)
            for group in optimizer.param_groups:
                group["lr"] = lr
            model.train()
            total = 0.0
            for part in range(settings.accumulate):
                with accelerator.accumulate(ready):
                    loss = ready(batches.at(step * settings.accumulate + part)).mean()
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                total = total + loss.detach() / settings.accumulate
            ema.update(model)
            running = total if running is None else running.lerp(total, 0.02)

            counters["step"], counters["images"] = step + 1, counters["images"] + size
            bar.update()
            if main and time.monotonic() - looked > 1:  # reading the loss waits for the GPU: not at every step
                value, looked = checked(running), time.monotonic()
                rate = (counters["images"] - since[1]) / max(looked - since[0], 1e-9)
                since = (looked, counters["images"])
                left = minutes_left(counters, done)
                bar.set_postfix_str(f"loss {value:.4f}, {rate:.0f} images/s, {left:.0f} min left", refresh=False)
            counters["seconds"] += time.monotonic() - clock

            done = progress()
            end = done >= 1
            if main:
                paused = time.monotonic()
                if counters["step"] % settings.validate_every == 0 or 1 <= done < math.inf:
                    validate()
                if sample and (counters["step"] % settings.sample_every == 0 or 1 <= done < math.inf):
                    draw()
                if end or time.monotonic() - saved > settings.checkpoint_minutes * 60:
                    checked(running)
                    checkpoint()
                    saved = time.monotonic()
                since = (since[0] + time.monotonic() - paused, since[1])
            clock = time.monotonic()  # what validation, samples and checkpoints take is not training
    accelerator.end_training()
    if done == math.inf:
        say(f"stopped {run} at step {counters['step']}, all saved: the same command goes on with it")
        raise KeyboardInterrupt
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
    """Accelerate's object for this run; logs to TensorBoard where that is installed (pip install -e ".[train]").

    Raises:
        UserError: a precision that this machine does not have.
    """
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise UserError("train.precision fp16 needs a GPU: use --set train.precision=auto")
    try:
        import tensorboard  # noqa: F401

        tracker = "tensorboard"
    except ImportError:
        print('no TensorBoard files: they need pip install -e ".[train]"; log.jsonl has the same figures')
        tracker = None
    try:
        accelerator = Accelerator(
            cpu=on_cpu(),
            mixed_precision=chosen_precision(settings.precision),
            gradient_accumulation_steps=settings.accumulate,
            log_with=tracker,
            project_dir=str(run),
        )
    except ValueError as error:  # bf16 on a device that has none
        raise UserError(f"train.precision {settings.precision}: {error}; use --set train.precision=auto") from None
    accelerator.init_trackers("tensorboard")
    return accelerator


def initialise(model, file):
    """Begin a run with the weights of an exported safetensors file: every key must be there, in its shape. What a model
    does not export stays as it is."""
    prefix = getattr(model, "exported_prefix", "")
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(prefix)}
    try:
        model.load_state_dict(kept | {prefix + name: tensor for name, tensor in load_file(file).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"train.init_from={file}: {' '.join(str(error).split())[:200]}") from None


def minutes_left(counters, done):
    """Minutes of training that are left of a run, if it goes on as it went."""
    return counters["seconds"] / 60 * (1 - done) / max(done, 1e-9)

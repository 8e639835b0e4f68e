"""The training loop of CLIP, prior, decoder and upsampler. What differs between them is the model's own `.loss(batch)`.

`.loss(batch, generator=None)` returns (the loss of each sample (B,), its timestep as a fraction of T (B,) or None).
"""

import random
import time
from copy import deepcopy
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm

from ..config import load_config, save_config
from ..errors import UserError
from ..files import new_file
from .checkpoint import FOLDER, Checkpoints, saved_in
from .ema import EMA
from .feed import fed
from .log import FILE, cut_back, write_line
from .meter import Meter
from .optimizers import build_optimizer, rate_at
from .precision import chosen_precision
from .processes import on_cpu
from .sharding import BLOCKS, divides_weights, layout_for, live_state, prepared, put_back, shard_on_cpu, whole, whole_state
from .speed import allow_tf32, checkpoint_gradients, compile_networks
from .stop import Stop
from .trouble import KNOWN, Trouble

BUCKETS = 5


def train(model, batches, val_batches, config, *, export, sample=None, metrics=None):
    """Train a model until its steps or minutes are over. Running it again goes on where the last checkpoint stands.

    Every step seeds torch's noise by the run's seed, the step and the process, so a resumed run goes as an unbroken one.

    Args:
        model: a module with `.loss(batch, generator)`.
        batches: `.at(step)` gives the batch of a step for this process, `.state()` tells where they are, for `.load(state)`;
            on a GPU, a thread asks for them (see feed.py).
        val_batches: a list of fixed batches.
        config: a RunConfig. `config.train.run` is the folder for the checkpoints, `config.yaml`, `log.jsonl`,
            `trouble.jsonl`, TensorBoard files, samples and the exported model.
        export: called as export(model) with the averaged weights in place, at every checkpoint.
        sample: called as sample(model) -> PIL image, now and then.
        metrics: called as metrics(model) -> dict of numbers, with every validation.

    Raises:
        UserError: the loss is no longer finite or explodes, a checkpoint does not fit or not all processes see it, or a setting
            is not for this model.
        KeyboardInterrupt: at the end of the step in which a signal to stop came (see stop.py), with all of it saved.
    """
    Training(model, batches, val_batches, config, export, sample, metrics).go()


class Training:
    """A run: what trains, and where it stands. `counters` is what a checkpoint keeps beside weights and moments."""

    def __init__(self, model, batches, val_batches, config, export, sample, metrics):
        self.model, self.batches, self.val_batches, self.config = model, batches, val_batches, config
        self.export, self.sample, self.metrics = export, sample, metrics
        self.settings, self.run = config.train, Path(config.train.run)
        self.accelerator = accelerator = make_accelerator(self.settings, self.run)
        self.main, self.processes = accelerator.is_main_process, accelerator.num_processes
        self.samples_a_step = self.settings.batch_size * self.settings.accumulate * self.processes
        allow_tf32(model, accelerator)
        copy = deepcopy(model) if divides_weights(accelerator) and self.main else None
        if self.settings.gradient_checkpointing:
            checkpoint_gradients(model)
        if self.settings.compile is not None:
            compile_networks(model, self.settings.compile)
        model.to(accelerator.device, memory_format=layout_for(accelerator))
        self.ready, self.optimizer = prepared(accelerator, ForwardIsLoss(model), build_optimizer(model, config.optimizer), config)
        self.ema = EMA(model, self.settings.ema, copy)
        self.checkpoints = Checkpoints(
            self.run, config, model, self.ema, self.optimizer, accelerator.scaler, self.processes
        )
        self.trouble, self.meter = Trouble(self.run, self.settings.max_skipped), Meter(accelerator.device)
        self.counters = self.checkpoints.load() or self.initial()
        if self.processes > 1 and len(set(gather_object([self.counters["step"]]))) > 1:
            raise UserError(f"the processes find other checkpoints in {self.run}: train.run has to be on a disk that all share")

    def initial(self):
        """The counters of a new run, whose weights begin as the config says."""
        if self.settings.init_from:
            initialise(self.model, self.settings.init_from)
            self.ema.begin(self.model)
        return {"step": 0, "seconds": 0.0, "images": 0, "skipped_steps": 0, "usual_loss": 0.0, "batches": None}

    def go(self):
        """The whole run, or the rest of it."""
        self.prepare_folder()
        settings, counters = self.settings, self.counters
        bar = tqdm(total=settings.steps, initial=counters["step"], disable=not self.main, unit="step", mininterval=5)
        with Stop() as self.stop, bar, fed(self.batches, self.accelerator.device) as self.batches:
            if counters["batches"] is not None:
                places = counters["batches"]  # of each process; where they were another number, the data say what they do
                self.batches.load(places[self.accelerator.process_index % len(places)])
            done, asked = self.progress(counters["step"], counters["seconds"]), False
            if done >= 1:  # finished before; whoever removed the model gets it again
                self.save_model()
            self.saved = self.clock = time.monotonic()
            while done < 1 and not asked:
                rate = self.config.optimizer.lr * rate_at(counters["step"], done, self.config.optimizer)
                done, asked, due, figures = self.step(rate)
                bar.update()
                bar.set_postfix_str(self.postfix(done), refresh=False)
                ends = done >= 1
                if ends or counters["step"] % settings.validate_every == 0:
                    self.log({**figures, **self.meter.figures(), **self.state(), **self.validate()}, bar)
                elif counters["step"] % settings.log_every == 0:
                    self.log({**figures, **self.meter.figures(), **self.state()})
                if self.sample and (ends or counters["step"] % settings.sample_every == 0):
                    self.draw()
                if ends or asked or due:
                    self.save_model()
                    self.checkpoint()
                self.clock = time.monotonic()  # what validation, samples and checkpoints take is not training
        self.accelerator.end_training()
        if asked and done < 1:
            self.say(f"stopped {self.run} at step {counters['step']}, all saved: the same command goes on with it")
            raise KeyboardInterrupt
        self.say("finished {run}: {step} steps, {images} images, {0:.1f} minutes".format(
            counters["seconds"] / 60, run=self.run, **counters))  # fmt: skip

    def prepare_folder(self):
        """The run's folder as the checkpoint knows it: what came after it is removed, and will come again."""
        step = self.counters["step"]
        if self.main:
            self.run.mkdir(parents=True, exist_ok=True)
            self.checkpoints.clear_away()
            cut_back(self.run / FILE, step)
            cut_back(self.trouble.file, step - 1)  # where the first step is step 0, as its batch is
            save_config(self.config, self.run / "config.yaml")
        purge = {"purge_step": step + 1} if step else {}
        self.accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": purge})
        if step:
            self.say(f"resuming {self.run} at step {step}")

    def say(self, line):
        self.accelerator.print(line)

    def progress(self, step, seconds):
        """The share of the run that is over after so many steps and seconds of training."""
        parts = [step / self.settings.steps] if self.settings.steps else []
        parts += [seconds / 60 / self.settings.minutes] if self.settings.minutes else []
        return max(parts)

    def step(self, rate):
        """One step at a learning rate: (the share of the run that is over, whether it was told to stop, whether a checkpoint
        is due, figures of the step)."""
        counters, accelerator, accumulate = self.counters, self.accelerator, self.settings.accumulate
        step = counters["step"]
        torch.manual_seed(random.Random(f"{self.settings.seed} {step} {accelerator.process_index}").getrandbits(32))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        total, keys = 0.0, []
        for part in range(accumulate):
            with self.meter.waiting():
                batch = self.batches.at(step * accumulate + part)
            keys += batch.get("key", [])
            with accelerator.accumulate(self.ready):
                loss = self.ready(batch).mean()
                accelerator.backward(loss)
                total = total + loss.detach() / accumulate
        norm = float(whole(accelerator.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)))
        loss, done, asked, due = self.agreed(total)
        if self.is_trouble(loss, norm, keys):
            counters["skipped_steps"] += 1
            if accelerator.scaler is not None:
                accelerator.scaler.update()  # as a step would have done
        else:
            self.optimizer.step()
            self.ema.update(self.model)
            trained = step + 1 - counters["skipped_steps"]
            counters["usual_loss"] += max(0.02, 1 / trained) * (loss - counters["usual_loss"])
        self.optimizer.zero_grad()
        counters["step"], counters["images"] = step + 1, counters["images"] + self.samples_a_step
        seconds = time.monotonic() - self.clock
        counters["seconds"] += seconds
        self.meter.step(seconds, self.samples_a_step)
        return done, asked, due, {"train_loss": counters["usual_loss"], "gradient_norm": norm, "learning_rate": rate}

    def agreed(self, loss):
        """What all processes see alike: (the mean loss, the share of the run that will be over with this step, whether any was
        told to stop, whether a checkpoint is due); by the main process's clock."""
        now = time.monotonic()
        done = self.progress(self.counters["step"] + 1, self.counters["seconds"] + now - self.clock)
        due = now - self.saved > self.settings.checkpoint_minutes * 60
        if self.processes == 1:
            return loss.item(), done, self.stop.asked, due  # a GPU has to be through with the step for it
        parts = [loss / self.processes, done * self.main, self.stop.asked, due and self.main]
        parts = [torch.as_tensor(part, dtype=torch.double, device=self.accelerator.device) for part in parts]
        loss, done, asked, due = self.accelerator.reduce(torch.stack(parts), "sum").tolist()
        return loss, done, asked > 0, due > 0

    def is_trouble(self, loss, norm, keys):
        """Whether the step is to be left out, see trouble.py. In fp16 a gradient that is not finite is everyday: the scaler
        leaves such a step out by itself, and scales less from then on."""
        scaled = self.accelerator.scaler is not None
        step, known = self.counters["step"], self.counters["step"] - self.counters["skipped_steps"] >= KNOWN
        usual = self.counters["usual_loss"] if known else None
        what = self.trouble.what(loss, 0.0 if scaled else norm, usual)
        if what is None:
            return False
        keys = gather_object(keys) if self.processes > 1 else keys
        line = {"step": step, "what": what, "loss": loss, "usual_loss": usual, "gradient_norm": norm, "keys": keys}
        return self.trouble.note(line, self.say, write=self.main)

    def postfix(self, done):
        """What the bar says beside the steps."""
        left = minutes_left(self.counters, done)
        return f"loss {self.counters['usual_loss']:.4f}, {self.meter.rate:.0f} images/s, {left:.0f} min left"

    def state(self):
        return {"ema_distance": self.ema.distance(self.model), "skipped_steps": self.counters["skipped_steps"]}

    def log(self, figures, bar=None):
        """Write a step's figures to the log and the tracker, and beside the bar if given."""
        if self.main:
            figures = {**{name: self.counters[name] for name in ("step", "seconds", "images")}, **figures}
            self.accelerator.log(figures, step=figures["step"])
            write_line(self.run / FILE, figures)
            if bar is not None:
                bar.write(", ".join(f"{k} {v:.4g}" for k, v in figures.items()))

    def validate(self):
        with self.ema.averaged(self.model) as model:
            if not self.main:
                return {}
            figures = validation(model, self.val_batches, self.accelerator)
            return {**figures, **(self.metrics(model) if self.metrics else {})}

    def draw(self):
        with self.ema.averaged(self.model) as model:
            if self.main:
                with new_file(self.run / "samples" / f"{self.counters['step']:07d}.png") as temporary:
                    self.sample(model).save(temporary, "PNG")

    def save_model(self):
        with self.ema.averaged(self.model) as model:
            if self.main:
                self.export(model)

    def checkpoint(self):
        place = [self.batches.state()]
        self.counters["batches"] = gather_object(place) if self.processes > 1 else place
        self.checkpoints.save(self.counters, write=self.main)
        self.saved = time.monotonic()


class ForwardIsLoss(torch.nn.Module):
    """Lets wrappers that hook `forward` (DDP, FSDP, autocast) see the loss as the forward pass.

    _no_split_modules: how accelerate asks which layers FSDP is to gather one by one; all else is whole during a step.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model
        self._no_split_modules = sorted({type(module).__name__ for module in model.modules()} & BLOCKS)

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
    shard_on_cpu(accelerator)
    return accelerator


def config_of_run(kind, path, overrides=()):
    """The config of a run that is to go now; see `load_config`.

    Raises:
        UserError: besides, a new run's first weights are no file; to see that once the data are read would cost minutes.
    """
    config = load_config(kind, path, overrides)
    first = config.train.init_from
    if first is not None and not saved_in(Path(config.train.run) / FOLDER) and not Path(first).is_file():
        raise UserError(f"train.init_from={first} is no file: name the .safetensors file to begin with")
    return config


def initialise(model, file):
    """Begin a run with the weights of an exported safetensors file: every key must be there, in its shape. What a model
    does not export stays as it is."""
    prefix = getattr(model, "exported_prefix", "")
    kept = {name: tensor for name, tensor in live_state(model).items() if not name.startswith(prefix)}
    try:
        put_back(model, whole_state(kept, model) | {prefix + name: tensor for name, tensor in load_file(file).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"train.init_from={file}: {' '.join(str(error).split())[:200]}") from None


def minutes_left(counters, done):
    """Minutes of training that are left of a run, if it goes on as it went."""
    return counters["seconds"] / 60 * (1 - done) / max(done, 1e-9)

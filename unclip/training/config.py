"""What every training has in common: where, how long, with which optimizer."""

from typing import Literal, Optional

from pydantic import Field, PositiveInt, model_validator

from ..config import Strict


class DataConfig(Strict):
    """Which pictures: a data folder (see unclip/data/shards.py), its splits, and the size they are decoded to.

    For a CLIP's training, it may be a URL or a command instead, in brace notation (see unclip/data/remote.py): the pictures are
    streamed, and the last shard is held out. A command is run: mind whose configs you use.

    Without a folder for `val_split`, some of the training pictures are held out. in_memory: decode once and keep, or
    stream from the shards in every epoch, with `workers` processes; "auto" keeps what is estimated at 4 GB at most.
    best: the share of the training pictures to keep, those that CLIP finds nearest to their captions, for sets in memory
    whose parts are trained on CLIP's embeddings: what shows its subject badly teaches little.
    repeat: {a name or noun of classes: how often their pictures come in an epoch}, for labelled sets in memory: what is
    hard to draw is worth more looks.
    max_bad: the share of the samples that may be bad, truncated or without a caption, say, before the run ends; they are
    skipped. It counts from a thousand samples on. As large a share of the shards may be lost or cut off, but always one.
    """

    folder: str
    image_size: int = Field(ge=1, le=8192)
    train_split: str = "train"
    val_split: str = "test"
    mirror: bool = True
    in_memory: bool | Literal["auto"] = "auto"
    workers: int = Field(4, ge=0, le=1000)
    best: float = Field(1.0, gt=0, le=1)
    repeat: dict[str, PositiveInt] = {}
    max_bad: float = Field(0.1, ge=0, le=1)


class OptimizerConfig(Strict):
    """AdamW everywhere, or Muon on the inner matrices and convolutions and AdamW on the rest.

    The learning rate rises over `warmup` steps, stays, and falls to zero over the last `decay` share of the run.
    """

    name: Literal["adamw", "muon"]
    lr: float = Field(gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = Field(100, ge=0)
    decay: float = Field(0.3, ge=0, le=1)
    clip_norm: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def check_betas(self):
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {list(self.betas)}: choose numbers from 0 to below 1")
        return self


class TrainConfig(Strict):
    """How long, how often. A run ends after `steps` steps or `minutes` of training, whichever comes first.

    `precision` auto is bf16 where the processor or the GPU computes in it, and no (float32) elsewhere.
    gradient_checkpointing: memory for time, in all but a CLIP: the layers' inner values are computed again in the backward
    pass and not kept, for larger batches or networks. The gradients are the same.
    compile: a mode of torch.compile for the networks, in all but a CLIP; null: none. What it gains on a GPU is unmeasured,
    as is what a GPU gains by itself: AdamW in one kernel, and TensorFloat-32 where `precision` is float32.
    keep_checkpoints: the newest, of which the last is gone on with. max_skipped: how many steps in a row may be left out,
    since their loss is no number or far too large, before the run ends at its last checkpoint.
    """

    run: str
    batch_size: int = Field(ge=1, le=1_000_000)
    steps: Optional[int] = Field(None, ge=1)
    minutes: Optional[float] = Field(None, gt=0)
    accumulate: int = Field(1, ge=1, le=1_000_000)
    seed: int = Field(0, ge=0, lt=2**32)
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    compile: Optional[Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]] = None
    ema: float = Field(0.999, ge=0, lt=1)
    log_every: int = Field(100, ge=1)
    validate_every: int = Field(500, ge=1)
    val_samples: int = Field(1024, ge=1)
    sample_every: int = Field(2000, ge=1)
    checkpoint_minutes: float = Field(5, ge=0)
    keep_checkpoints: int = Field(2, ge=1)
    max_skipped: int = Field(5, ge=0)
    init_from: Optional[str] = None

    @model_validator(mode="after")
    def check_end(self):
        if self.steps is None and self.minutes is None:
            raise ValueError("set train.steps or train.minutes: a run needs an end")
        return self


class RunConfig(Strict):
    """A training run, less what is its own to CLIP, prior or decoder."""

    data: DataConfig
    optimizer: OptimizerConfig
    train: TrainConfig

"""What every training has in common: where, how long, with which optimizer."""

from typing import Literal, Optional

from ..config import Strict


class DataConfig(Strict):
    """Which pictures: a data folder (see unclip/data/shards.py), its splits, and the size they are decoded to."""

    folder: str
    image_size: int
    train_split: str = "train"
    val_split: str = "test"
    mirror: bool = True


class OptimizerConfig(Strict):
    """AdamW everywhere, or Muon on the inner matrices and convolutions and AdamW on the rest.

    The learning rate rises over `warmup` steps, stays, and falls to zero over the last `decay` share of the run.
    """

    name: Literal["adamw", "muon"]
    lr: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 100
    decay: float = 0.3
    clip_norm: float = 1.0


class TrainConfig(Strict):
    """How long, how often. A run ends after `steps` steps or `minutes` of training, whichever comes first."""

    run: str
    batch_size: int
    steps: Optional[int] = None
    minutes: Optional[float] = None
    accumulate: int = 1
    seed: int = 0
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    ema: float = 0.999
    validate_every: int = 500
    val_samples: int = 1024
    sample_every: int = 2000
    checkpoint_minutes: float = 5
    init_from: Optional[str] = None


class RunConfig(Strict):
    """A training run, less what is its own to CLIP, prior or decoder."""

    data: DataConfig
    optimizer: OptimizerConfig
    train: TrainConfig

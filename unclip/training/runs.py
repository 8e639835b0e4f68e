"""What each training script runs: its config, its model, its data, put into the one loop."""

from pathlib import Path
from typing import Optional

from ..config import Strict, load_config
from .config import RunConfig
from .loop import train
from .sources import load_tables, training_batches, validation_batches


class ClipModel(Strict):
    """architecture: OpenCLIP's model config; crop and low_resolution: see ContrastiveCLIP."""

    architecture: dict
    crop: Optional[int] = None
    low_resolution: float = 0.0


class ClipRun(RunConfig):
    model: ClipModel


def train_clip(path, overrides=()):
    """Train a CLIP as a config says; writes RUN/clip."""
    from ..contrastive import ContrastiveCLIP

    config = load_config(ClipRun, path, overrides)
    model = ContrastiveCLIP(config.model.architecture, config.model.crop, config.model.low_resolution)
    table, val = load_tables(config)
    train(
        model,
        training_batches(table, config),
        validation_batches(val, config),
        config,
        export=lambda model, run: model.save(Path(run) / "clip", model.state_dict()),
    )

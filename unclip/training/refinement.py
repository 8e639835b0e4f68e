"""What `scripts/refine.py` runs: a model's decoder, and what it drew, which it learns to tell from photographs."""

import random
from pathlib import Path
from typing import Optional

import torch
from pydantic import Field, PositiveInt
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from ..config import load_config
from ..data.images import to_bytes
from ..data.table import TableBatches, make_batch
from ..errors import UserError
from ..files import new_file
from ..hub import model_folder
from ..model_index import begin_copy
from ..pipeline import UnCLIP
from ..refinement import Refinement
from .config import RunConfig
from .loop import train
from .processes import process
from .runs import sample_grid, settle
from .sources import Source

TOGETHER = 50  # pictures that are drawn at once
A_FILE = 500  # and that a file holds


class RefineRun(RunConfig):
    """reference: "pocket", a model folder or a hub id; out: the folder of the model with the refined decoder; scale: see
    `Refinement`; pictures: how many of the training pictures' embeddings it draws from, without guidance, before it
    learns, of which one in twenty, 500 at most, are held out; num_inference_steps: in how many steps, its default where left out.
    """

    reference: str = "pocket"
    out: str
    scale: float = Field(0.2, gt=0)
    pictures: int = Field(ge=2)
    num_inference_steps: Optional[PositiveInt] = None


def refine(path, overrides=()):
    """Refine a model's decoder as a config says; writes OUT, a whole model."""
    config = load_config(RefineRun, path, overrides)
    folder, run = model_folder(config.reference), Path(config.train.run)
    if Path(config.out).resolve() == folder.resolve():
        raise UserError(f"{path}: out is the reference's own folder: name another")
    if (Path(config.out) / "decoder").is_dir() and not run.is_dir():
        raise UserError(f"{path}: {config.out} has a decoder, which would be lost: name another folder for out")
    drawing = UnCLIP.from_pretrained(folder, device=process().device)
    settle(config.data, "image_size", drawing.decoder.image_size, "data", path, "the reference's")
    model = Refinement(drawing.decoder, scale=config.scale)
    source = Source(config, drawing.clip)
    if source.table is None:
        raise UserError(f"{path}: refining is for sets in memory: set data.in_memory=true")
    table = with_drawn(source.table, drawing, config)
    held_out = min(500, max(1, len(table) // 20))
    rows = torch.arange(len(table))
    val = [make_batch(table, part, torch.zeros(len(part), dtype=torch.bool)) for part in rows[:held_out].split(125)]
    if process().is_main_process:
        begin_copy(folder, config.out, "decoder", {})
    process().wait_for_everyone()
    train(model, batches(table.take(rows[held_out:]), config), val, config,
          sample=lambda model: sample_grid(model.decoder, val[0]),
          export=lambda model: model.decoder.save(Path(config.out) / "decoder"))  # fmt: skip


def batches(table, config):
    """The endless batches of this process."""
    state, train = process(), config.train
    return TableBatches(
        table, train.batch_size, train.seed, state.process_index, state.num_processes, config.data.mirror, captions=False
    )


def with_drawn(table, model, config):
    """Some rows of a table, with what the model's decoder draws from their embeddings as `drawn`.

    Which rows, and the noise, depend on the run's seed alone. Each of several processes draws some of the files in RUN/drawn; a
    run that goes on reads what is there.
    """
    state, seed = process(), config.train.seed
    generator = torch.Generator().manual_seed(seed)
    table = table.take(torch.randperm(len(table), generator=generator)[: config.pictures])
    settings = model.settings(
        guidance_scale=1.0, num_inference_steps=config.num_inference_steps, stop_after="base", negative_prompt=""
    )
    rng = random.Random(f"drawn {seed}")
    jobs = [("", rng.getrandbits(31)) for _ in range(len(table))]
    embed = table.image_embed[:, 0].float()
    files = [(first, Path(config.train.run) / "drawn" / f"{first:07d}.safetensors") for first in range(0, len(table), A_FILE)]
    with tqdm(total=len(table), desc="drawn to learn from", unit="pictures", disable=not state.is_main_process) as bar:
        for first, file in files[state.process_index :: state.num_processes]:
            part = slice(first, first + A_FILE)
            if not file.is_file():
                pictures = model.sample_each(jobs[part], settings, image_embed=embed[part], batch_size=TOGETHER)
                with new_file(file) as temporary:
                    save_file({"drawn": to_bytes(pictures)}, temporary)
            bar.update(len(jobs[part]) * state.num_processes)
    state.wait_for_everyone()
    table.drawn = torch.cat([load_file(file)["drawn"] for _, file in files])
    return table

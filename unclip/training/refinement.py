"""What `scripts/refine.py` runs: a model's decoder, and what it drew, which it learns to tell from photographs."""

import hashlib
import random
from pathlib import Path
from typing import Optional

import torch
from pydantic import Field, PositiveInt
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from ..data.images import to_bytes
from ..errors import UserError
from ..files import new_file
from ..hub import model_folder
from ..model_index import begin_copy
from ..pipeline import UnCLIP
from ..refinement import Refinement
from .config import RunConfig
from .loop import config_of_run, train
from .processes import process
from .runs import sample_grid, settle, spare_decoders
from .sources import Source

TOGETHER = 50  # pictures that are drawn at once
A_FILE = 500  # and that a file holds


class RefineRun(RunConfig):
    """reference: "pocket", a model folder or a hub id; out: the folder of the model with the refined decoder; scale: see
    `Refinement`; pictures: from how many of the training pictures' embeddings it draws, without guidance, before it learns;
    so it does from train.val_samples of those held out; num_inference_steps: in how many steps, its default where left out.
    """

    reference: str = "pocket"
    out: str
    scale: float = Field(0.2, gt=0)
    pictures: int = Field(ge=1)
    num_inference_steps: Optional[PositiveInt] = None


def refine(path, overrides=()):
    """Refine a model's decoder as a config says; writes OUT, a whole model."""
    config = config_of_run(RefineRun, path, overrides)
    folder, run = model_folder(config.reference), Path(config.train.run)
    spare_decoders(config, folder, path)
    drawing = UnCLIP.from_pretrained(folder, device=process().device)
    settle(config.data, "image_size", drawing.decoder.image_size, "data", path, "the reference's")
    model = Refinement(drawing.decoder, scale=config.scale)
    source = Source(config, drawing.clip)
    if source.table is None:
        raise UserError(f"{path}: refining is for sets in memory: set data.in_memory=true")
    source.val_table = with_drawn(source.val_table, config.train.val_samples, drawing, config, run / "drawn" / "held-out")
    source.table = with_drawn(source.table, config.pictures, drawing, config, run / "drawn" / "training")
    source.say(f"{len(source.table)} pairs to learn from, {len(source.val_table)} held out")
    val = source.validation()
    if process().is_main_process:
        begin_copy(folder, config.out, "decoder", {})
    process().wait_for_everyone()
    train(model, source.training(), val, config, sample=lambda model: sample_grid(model.decoder, val[0]),
          export=lambda model: model.decoder.save(Path(config.out) / "decoder"))  # fmt: skip


def with_drawn(table, count, model, config, folder):
    """Some rows of a table, with what the model's decoder draws from their embeddings as `drawn`.

    Which rows, and the noise, depend on the run's seed alone. The pictures are kept in files of a folder: each of several
    processes draws some of them, and a run that goes on reads those that are there and were drawn so.
    """
    state, seed = process(), config.train.seed
    table = table.take(torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))[:count])
    settings = model.settings(
        guidance_scale=1.0, negative_prompt="", num_inference_steps=config.num_inference_steps, stop_after="base"
    )
    rng = random.Random(f"drawn {seed}")
    jobs, embed = [("", rng.getrandbits(31)) for _ in range(len(table))], table.image_embed[:, 0].float()
    how = digest(model.decoder, settings, jobs, table.keys)
    files = [(first, folder / f"{first:07d}.safetensors") for first in range(0, len(table), A_FILE)]
    with tqdm(total=len(table), desc=f"drawn, {folder.name}", unit="pictures", disable=not state.is_main_process) as bar:
        for first, file in files[state.process_index :: state.num_processes]:
            part = slice(first, first + A_FILE)
            if read_drawn(file, how) is None:
                pictures = model.sample_each(jobs[part], settings, image_embed=embed[part], batch_size=TOGETHER)
                with new_file(file) as temporary:
                    save_file({"drawn": to_bytes(pictures)}, temporary, {"how": how})
            bar.update(len(jobs[part]) * state.num_processes)
    state.wait_for_everyone()
    table.drawn = torch.cat([read_drawn(file, how) for _, file in files])
    return table


def digest(decoder, settings, jobs, keys):
    """A checksum of all that decides what is drawn."""
    checksum = hashlib.sha256(repr((settings.model_dump(), jobs, keys)).encode())
    for tensor in decoder.state_dict().values():
        checksum.update(tensor.cpu().contiguous().numpy())
    return checksum.hexdigest()


def read_drawn(file, how):
    """The pictures of a file, uint8 (N, 3, S, S); None where there is none, or it holds others."""
    if not file.is_file():
        return None
    with safe_open(file, "pt") as opened:
        return opened.get_tensor("drawn") if opened.metadata().get("how") == how else None

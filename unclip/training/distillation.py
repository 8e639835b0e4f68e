"""What `scripts/distill.py` runs: a model's decoder as the teacher, and a student that draws in a few steps."""

from pathlib import Path

import torch

from ..conditioning import text_of
from ..config import Strict, check, signature_model
from ..data.images import grid, to_pil
from ..data.texts import CaptionEncoder
from ..decoder import Decoder
from ..diffusion import SeededNoise
from ..distillation import Distillation
from ..errors import UserError
from ..hub import load_clip, model_folder
from ..model_index import INDEX, begin_copy, read_index
from ..pipeline import Settings
from .config import RunConfig
from .loop import config_of_run, train
from .processes import process
from .runs import settle
from .sources import Source

COMPARED, COLUMNS = 32, 8
GUIDANCE = ["guidance_scale", "guidance_start", "guidance_end"]


class DistillRun(RunConfig):
    """teacher: "pocket", a model folder or a hub id; out: the folder of the model with the distilled decoder. student: see
    `Distillation`; what is left out of the guidance is the teacher's default."""

    teacher: str = "pocket"
    out: str
    student: signature_model(Distillation, leave_out=["teacher"], may_miss=GUIDANCE)


def distill(path, overrides=()):
    """Distil a model's decoder as a config says; writes OUT, a whole model."""
    config = config_of_run(DistillRun, path, overrides)
    folder = model_folder(config.teacher)
    if Path(config.out).resolve() == folder.resolve():
        raise UserError(f"{path}: out is the teacher's own folder: name another")
    there = Path(config.out) / "decoder"
    if there.is_dir() and not Decoder.from_pretrained(there).step_counts:
        raise UserError(f"{path}: {there} was not distilled and would be lost: name another folder for out")
    fill_guidance(config.student, folder)
    teacher = Decoder.from_pretrained(folder / "decoder", process().device).to(memory_format=torch.channels_last)
    settle(config.data, "image_size", teacher.image_size, "data", path, "the teacher's")
    model = Distillation(teacher, **config.student.model_dump())
    clip = load_clip(folder, process().device)
    if clip.embed_dim != len(teacher.null_image):
        raise UserError(f"the decoder of {folder} reads another CLIP than its {INDEX} names: copy or train it again")
    source = Source(config, clip, None if teacher.text_to_tokens is None else CaptionEncoder(clip))
    val = source.validation()
    if process().is_main_process:
        drawn_by = {"num_inference_steps": model.steps[0], "guidance_scale": 1.0, "sampler": "ddim", "eta": 0.0}
        begin_copy(folder, config.out, "decoder", drawn_by)
    process().wait_for_everyone()
    pictures = Comparison(val[0])
    train(model, source.training(), val, config, sample=pictures.grid, metrics=pictures.distances,
          export=lambda model: model.student.save(Path(config.out) / "decoder"))  # fmt: skip


def fill_guidance(student, folder):
    """Set what the student section of a config leaves out of the guidance to the defaults of the teacher's model folder."""
    defaults = check(Settings, read_index(folder)["defaults"], folder / INDEX)
    for name in GUIDANCE:
        if getattr(student, name) is None:
            setattr(student, name, getattr(defaults, name))


class Comparison:
    """What teacher and student draw from the same noise for a held-out batch's embeddings."""

    def __init__(self, batch):
        self.batch, self.teachers = {k: v[:COMPARED] for k, v in batch.items()}, None

    def distances(self, model):
        """The root mean square of the difference between the student's pictures and the teacher's, by number of steps."""
        aim = self.of_teacher(model)
        return {f"distance_{n}": (x - aim).square().mean().sqrt().item() for n, x in self.of_student(model)}

    def grid(self, model):
        """The teacher's pictures, above the student's in fewer and fewer steps."""
        rows = [self.of_teacher(model), *(x for _, x in self.of_student(model))]
        return grid([image for x in rows for image in to_pil(x[:COLUMNS])], min(COLUMNS, len(rows[0])),
                    scale=max(1, 96 // model.student.image_size))  # fmt: skip

    def of_teacher(self, model):
        if self.teachers is None:
            self.teachers = self.drawn(model.teacher, model.teacher_steps, model.guidance)
        return self.teachers

    def of_student(self, model):
        return [(n, self.drawn(model.student, n, {"guidance_scale": 1.0})) for n in model.steps]

    def drawn(self, decoder, steps, guidance):
        texts = text_of(self.batch, decoder.device) if decoder.text_to_tokens is not None else ()
        embed = self.batch["image_embed"].to(decoder.device)
        noise = SeededNoise(range(len(embed)))
        return decoder.sample(embed, *texts, noise=noise, num_inference_steps=steps, **guidance)

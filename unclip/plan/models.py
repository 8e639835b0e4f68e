"""From any training config to its model, on the meta device, and a batch for it: shapes, and not a number in memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from ..bare import bare
from ..config import load_config
from ..data.captions import ClassCaptions
from ..decoder import Decoder
from ..distillation import Distillation
from ..errors import UserError
from ..hub import model_folder
from ..model_index import read_index
from ..openclip.architecture import architecture_of, sizes_of
from ..openclip.building import build_clip
from ..part import CONFIG
from ..prior import DiffusionPrior
from ..refinement import Refinement
from ..reward import RewardTuning
from ..training.distillation import DistillRun, fill_guidance
from ..training.refinement import RefineRun
from ..training.runs import ClipRun, DecoderRun, PriorRun, UpsamplerRun, build, settle
from ..upsampler import Upsampler


@dataclass
class Subject:
    """What a config trains: the model and a training batch on the meta device.

    loss: of the batch, a scalar. frozen: modules that help and are not trained: a CLIP, a teacher. beside: called without
    gradients in every step, what they do there.
    """

    kind: str
    config: Any
    model: nn.Module
    loss: Callable
    frozen: dict[str, nn.Module] = field(default_factory=dict)
    beside: Callable = lambda: None


class AnyConfig(BaseModel):
    """A config of whatever training."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    model: dict = {}


def subject(path, overrides=()):
    """The `Subject` of a training config with overrides such as "train.batch_size=8".

    Raises:
        UserError: no such config, one that makes no model, or a CLIP or teacher whose sizes cannot be told.
    """
    seen = load_config(AnyConfig, path, overrides)
    if "teacher" in seen.model_extra or "student" in seen.model_extra:
        return of_distillation(path, overrides)
    if "classifiers" in seen.model_extra:
        return of_rewarding(path, overrides)
    if "reference" in seen.model_extra:
        return of_refinement(path, overrides)
    of = {"architecture": of_clip, "transformer": of_prior, "scale": of_upsampler, "unet": of_decoder}
    kind = next((of[key] for key in of if key in seen.model), None)
    if kind is None:
        raise UserError(f"{path} is no training config: its model has none of {', '.join(of)}; see configs/")
    return kind(path, overrides)


def of_prior(path, overrides):
    config = load_config(PriorRun, path, overrides)
    clip, sizes = encoder(config.clip.name)
    settle(config.model, "embed_dim", sizes.embed_dim, "model", path)
    settle(config.model.transformer, "text_dim", sizes.text_width, "model.transformer", path)
    settle(config.model.transformer, "text_length", sizes.text_length, "model.transformer", path)
    with bare():
        model = build(DiffusionPrior, config, path, **config.model.model_dump(exclude_none=True))
        batch = {"image_embed": torch.empty(config.train.batch_size, sizes.embed_dim), **captions(config, sizes)}
    return Subject("prior", config, model, of_batch(model, batch), {"CLIP": clip}, reading(clip, config, sizes))


def of_decoder(path, overrides):
    config = load_config(DecoderRun, path, overrides)
    clip, sizes = encoder(config.clip.name)
    settle(config.model, "embed_dim", sizes.embed_dim, "model", path)
    settle(config.model, "image_size", config.data.image_size, "model", path, "data.image_size")
    texts, beside = {}, nothing
    with bare():
        if config.model.text_dim is not None:
            settle(config.model, "text_dim", sizes.text_width, "model", path)
            texts, beside = captions(config, sizes), reading(clip, config, sizes)
        model = build(Decoder, config, path, **config.model.model_dump(exclude_none=True))
        batch = {**pictures(config), "image_embed": torch.empty(config.train.batch_size, sizes.embed_dim), **texts}
    return Subject("decoder", config, model, of_batch(model, batch), {"CLIP": clip}, beside)


def of_upsampler(path, overrides):
    config = load_config(UpsamplerRun, path, overrides)
    settle(config.model, "image_size", config.data.image_size, "model", path, "data.image_size")
    frozen, embed = {}, {}
    if config.clip is not None:
        frozen["CLIP"], sizes = encoder(config.clip.name)
        settle(config.model, "embed_dim", sizes.embed_dim, "model", path)
    with bare():
        if config.model.embed_dim is not None:
            embed = {"image_embed": torch.empty(config.train.batch_size, config.model.embed_dim)}
        model = build(Upsampler, config, path, **config.model.model_dump(exclude_none=True))
        return Subject("upsampler", config, model, of_batch(model, pictures(config) | embed), frozen)


def of_clip(path, overrides):
    config = load_config(ClipRun, path, overrides)
    settings, size = config.model, config.train.batch_size
    sizes = sizes_of(settings.architecture, path)
    with bare():
        if settings.towers == "means":
            from ..led_text import LedText

            model = build(LedText, config, path, settings.architecture)
        else:
            from ..contrastive import ContrastiveCLIP

            labelled = ClassCaptions.of_folder(config.data.folder)
            if settings.towers == "image" and labelled is None:
                raise UserError(f"{path}: prepare {config.data.folder} first: how many labels it has is part of the model")
            options = settings.model_dump(exclude={"architecture"}) | {"num_labels": labelled and len(labelled.names)}
            model = build(ContrastiveCLIP, config, path, settings.architecture, **options)
        batch = pictures(config) | {
            "label": torch.empty(size, dtype=torch.long),
            "tokens": torch.empty(size, sizes.text_length, dtype=torch.long),
            "truth": torch.empty(size, size, dtype=torch.int8),
            "mean": torch.empty(size, sizes.embed_dim),
        }
    return Subject("CLIP", config, model, of_batch(model, batch))


def of_distillation(path, overrides):
    config = load_config(DistillRun, path, overrides)
    folder, size = model_folder(config.teacher), config.train.batch_size
    clip, sizes, teacher = clip_and_decoder(folder)
    fill_guidance(config.student, folder)
    settle(config.data, "image_size", teacher.image_size, "data", path, "the teacher's")
    with bare():
        model = build(Distillation, config, path, teacher, **config.student.model_dump())
        text = captions(config, sizes) if teacher.text_to_tokens is not None else {}
        text = {key: value for key, value in text.items() if not key.startswith("null_")}
        images = torch.empty(size, 3, teacher.image_size, teacher.image_size)
        embed, t = torch.empty(size, sizes.embed_dim), torch.empty(size, dtype=torch.long)

    def loss():
        """The student's part: its x_0-hat and an error of it."""
        student = model.student
        return student.denoiser(images, t, **student.read(embed, **text, steps=t)).x_0.square().mean()

    def beside():
        """Those from whom the student learns: as many forwards as `Distillation.loss` has on average, in one."""
        for level, (steps, finer) in enumerate(zip(model.steps, model.finer)):
            each = finer // steps * (teaching_forwards(model.guidance) if level == 0 else 1)
            rows = torch.zeros(round(size * each / len(model.steps)), dtype=torch.long, device="meta")
            decoder = model.student if level else teacher
            how = {"steps": t[rows]} if level else {}
            cond = decoder.read(embed[rows], **{key: value[rows] for key, value in text.items()}, **how)
            decoder.denoiser(images[rows], t[rows], **cond)

    return Subject("distillation", config, model, loss, {"CLIP": clip, "teacher": teacher}, beside)


def of_refinement(path, overrides):
    config = load_config(RefineRun, path, overrides)
    clip, sizes, reference = clip_and_decoder(model_folder(config.reference))
    settle(config.data, "image_size", reference.image_size, "data", path, "the reference's")
    with bare():
        model = build(Refinement, config, path, reference, scale=config.scale)
        embed = torch.empty(config.train.batch_size, sizes.embed_dim)
        batch = {**pictures(config), "drawn": pictures(config)["image"], "image_embed": embed}
    return Subject("refinement", config, model, of_batch(model, batch), {"CLIP": clip, "reference": reference})


def of_rewarding(path, overrides):
    import timm

    from ..classifiers import SIDES, Classifiers
    from ..critic import Critic
    from ..training.reward import RewardRun, rewardable_classes

    config = load_config(RewardRun, path, overrides)
    folder, size = model_folder(config.reference), config.train.batch_size
    clip, sizes, reference = clip_and_decoder(folder)
    fill_guidance(config.tuning, folder)
    with bare():
        judges = nn.ModuleList(build(timm.create_model, config, path, name).eval() for name in config.classifiers)
        critic = None
        if config.photographs is not None:
            networks = [(judge, (0.0,) * 3, (1.0,) * 3) for judge in judges]
            critic = Critic(Classifiers(networks, torch.empty(0)), len(rewardable_classes(folder, path).names))
        model = build(RewardTuning, config, path, reference, None, critic=critic, **config.tuning.model_dump())
        views = torch.empty(size, 3, max(SIDES), max(SIDES))
    learned, looks = size * model.trained_steps, 2 if critic is None else 6

    def said(decoder, pictures):
        """What a decoder says of some noised pictures."""
        with bare():
            x_t, t = torch.empty(pictures, 3, *[decoder.image_size] * 2), torch.empty(pictures, dtype=torch.long)
            embed = torch.empty(pictures, sizes.embed_dim)
        return decoder.denoiser.output(x_t, t, **decoder.read(embed))[0]

    def beside():
        """Drawing, what the reference says, and the classifiers: forward, and as much again for what pictures are told; all of it
        once more for the critic, which then learns from as many drawings as photographs."""
        said(model.decoder, size * model.num_inference_steps * teaching_forwards(model.guidance))
        said(reference, learned)
        for judge in judges:
            judge(torch.cat([views] * looks))

    frozen = {"CLIP": clip, "reference": reference, "classifiers": judges}
    return Subject("rewarding", config, model, lambda: said(model.decoder, learned).square().mean(), frozen, beside)


def clip_and_decoder(folder):
    """The CLIP of a model folder, its `Sizes`, and the folder's decoder, without weights."""
    name = read_index(folder)["clip"]["name"]
    clip, sizes = encoder(folder / name if (folder / name).is_dir() else name)
    return clip, sizes, Decoder._from_config(folder / "decoder" / CONFIG)


def teaching_forwards(guidance):
    """Forwards of the teacher's network a step: two where it is guided, and one more where in a part of the way alone, since
    the samples of a batch lie all over it."""
    if guidance["guidance_scale"] == 1:
        return 1
    return 2 + (guidance["guidance_start"] > 0 or guidance["guidance_end"] < 1)


def of_batch(model, batch):
    """A model's own loss of a batch, a scalar, as a function of nothing."""
    return lambda: model.loss(batch)[0].mean()


def nothing():
    pass


def encoder(name):
    """The CLIP of a name, without weights, and its `Sizes`."""
    architecture = architecture_of(name)
    sizes = sizes_of(architecture, name)
    with bare():
        return build_clip(architecture).requires_grad_(False).eval(), sizes


def reading(clip, config, sizes):
    """A function that has a CLIP read as many captions as a batch has."""
    tokens = torch.empty(config.train.batch_size, sizes.text_length, dtype=torch.long, device="meta")
    return lambda: clip.encode_text(tokens)


def captions(config, sizes):
    """The text keys of a batch whose longest caption fills the context, and of the empty caption."""

    def texts(rows):
        return {
            "text_embed": torch.empty(rows, sizes.embed_dim),
            "text_states": torch.empty(rows, sizes.text_length, sizes.text_width),
            "text_mask": torch.empty(rows, sizes.text_length, dtype=torch.bool),
        }

    return texts(config.train.batch_size) | {f"null_{key}": value for key, value in texts(1).items()}


def pictures(config):
    side = config.data.image_size
    return {"image": torch.empty(config.train.batch_size, 3, side, side, dtype=torch.uint8)}

"""What each training script runs: its config, its model, its data, put into the one loop."""

from pathlib import Path
from typing import Literal, Optional

import torch
from pydantic import Field

from ..augmentation import smaller
from ..conditioning import text_of
from ..config import Strict, signature_model
from ..data.captions import ClassCaptions
from ..data.images import grid, to_float, to_pil
from ..data.texts import CaptionEncoder
from ..decoder import Decoder
from ..diffusion import SeededNoise
from ..errors import UserError
from ..model_index import begin_model, side_before, write_classes, write_vocabulary
from ..networks.prior_transformer import PriorTransformer
from ..networks.unet import UNet
from ..prior import DiffusionPrior
from ..upsampler import Upsampler
from .config import RunConfig
from .loop import config_of_run, train
from .processes import process
from .redrawn import Redrawn, check_drawn, redrawn_batches
from .sources import Source

SAMPLES = 32


class ClipModel(Strict):
    """architecture: OpenCLIP's model config; towers: "means" is LedText; the rest: see ContrastiveCLIP."""

    architecture: dict
    crop: Optional[tuple[int, int]] = None
    train_size: Optional[int] = Field(None, ge=1)
    low_resolution: float = 0.0
    mix: float = Field(0.0, ge=0, le=1)
    towers: Literal["both", "image", "text", "means"] = "both"


class ClipRun(RunConfig):
    model: ClipModel


class EncoderConfig(Strict):
    """Which CLIP: see FrozenCLIP."""

    name: str
    pretrained: Optional[str] = None
    unit_variance: bool = False


TRANSFORMER = signature_model(PriorTransformer, leave_out=["embed_dim"], may_miss=["text_dim", "text_length"])
UNET = signature_model(UNet, leave_out=["in_channels", "out_channels"])
ATTENTION = ["attention_levels", "middle_attention", "head_dim", "context_dim"]
CONVOLUTIONS = signature_model(UNet, leave_out=["in_channels", "out_channels", *ATTENTION])


class PriorRun(RunConfig):
    """out: the model folder that gets the part `prior`. What the model leaves out of the CLIP's sizes is filled in."""

    out: str
    clip: EncoderConfig
    model: signature_model(DiffusionPrior, may_miss=["embed_dim"], transformer=TRANSFORMER)


class DecoderRun(RunConfig):
    """out: the model folder that gets the part `decoder`. embed_dim and image_size follow from CLIP and data."""

    out: str
    clip: EncoderConfig
    model: signature_model(Decoder, leave_out=["step_counts"], may_miss=["embed_dim", "image_size"], unet=UNET)


class UpsamplerRun(RunConfig):
    """out: the model folder that gets the part `upsampler-STAGE`. image_size follows from the data. With `clip`, it is
    told the image embeddings of that CLIP; without, it sees the smaller picture alone. redrawn: trains it on small pictures
    that the stages before it spoilt, too: see Redrawn."""

    out: str
    stage: int = Field(1, ge=1)
    redrawn: Optional[Redrawn] = None
    clip: Optional[EncoderConfig] = None
    model: signature_model(Upsampler, may_miss=["image_size"], unet=CONVOLUTIONS)


def train_clip(path, overrides=()):
    """Train a CLIP as a config says; writes RUN/clip."""
    config = config_of_run(ClipRun, path, overrides)
    model, source = (led_text if config.model.towers == "means" else contrastive)(path, config)
    train(model, source.training(), source.validation(), config,
          export=lambda model: model.save(Path(config.train.run) / "clip", model.state_dict()))  # fmt: skip


def contrastive(path, config):
    """The model of a ClipRun whose towers learn from pictures and captions, or from labels, and its Source."""
    from ..contrastive import ContrastiveCLIP

    crop, size = config.model.crop, config.data.image_size
    if crop is not None and not 1 <= crop[0] <= crop[1] <= size:
        raise UserError(f"{path}: model.crop is {list(crop)}: name a smallest and a largest side, 1 to data.image_size, {size}")
    class_captions, options = ClassCaptions.of_folder(config.data.folder), config.model.model_dump(exclude={"architecture"})
    labels = class_captions and len(class_captions.names)
    model = build(ContrastiveCLIP, config, path, config.model.architecture, num_labels=labels, **options)
    return model, Source(config, reader=None if model.towers == "image" else model.read)


def led_text(path, config):
    """The model of a ClipRun whose text tower is led to means, and its Source."""
    from ..led_text import LedText

    architecture, others, begin_with = config.model.architecture, config.model.model_fields_set, config.train.init_from
    if begin_with is None:
        raise UserError(f"{path}: towers: means leads captions to what an image tower sees: say in train.init_from whose")
    if unread := sorted(others - {"architecture", "towers"}):
        raise UserError(f"{path}: towers: means looks at whole pictures, once: leave out {', '.join(unread)}")
    model = build(LedText, config, path, architecture)
    source = Source(config, frozen_clip(EncoderConfig(name=str(Path(begin_with).parent))), model.read)
    model.lead(source.table)
    return model, source


def train_prior(path, overrides=()):
    """Train a prior as a config says; writes OUT/prior and, of a labelled set, its classes."""
    config = config_of_run(PriorRun, path, overrides)
    clip = frozen_clip(config.clip)
    text = clip.encode_text([""])
    settle(config.model, "embed_dim", clip.embed_dim, "model", path)
    settle(config.model.transformer, "text_dim", text.states.shape[2], "model.transformer", path)
    settle(config.model.transformer, "text_length", text.states.shape[1], "model.transformer", path)
    if config.model.transformer.text_embed_dim is not None:
        settle(config.model.transformer, "text_embed_dim", text.embed.shape[1], "model.transformer", path)
    model = build(DiffusionPrior, config, path, **config.model.model_dump(exclude_none=True))
    source = Source(config, clip, CaptionEncoder(clip))
    if config.train.init_from is None:  # other weights come with the statistics that they were trained on
        model.set_statistics(source.image_embeds())
    val = source.validation()
    begin(config, clip)
    if process().is_main_process:
        write_classes(config.out, source.class_captions)
    train(model, source.training(), val, config, metrics=lambda model: prior_cosine(model, val[0]),
          export=lambda model: model.save(Path(config.out) / "prior"))  # fmt: skip


def prior_cosine(prior, batch):
    """Mean cosine of sampled and true image embeddings, and of another picture's, for the captions of a batch."""
    embed = prior.sample(*text_of(batch, prior.device), noise=SeededNoise(range(len(batch["image_embed"]))), num_samples=1)
    true = batch["image_embed"].to(embed)
    cosine = torch.nn.functional.cosine_similarity
    return {"cosine": cosine(embed, true).mean().item(), "cosine_other": cosine(embed, true.roll(1, 0)).mean().item()}


def train_decoder(path, overrides=()):
    """Train a decoder as a config says; writes OUT/decoder and the vocabulary of its captions."""
    config = config_of_run(DecoderRun, path, overrides)
    clip = frozen_clip(config.clip)
    settle(config.model, "embed_dim", clip.embed_dim, "model", path)
    settle(config.model, "image_size", config.data.image_size, "model", path, "data.image_size")
    if config.model.text_dim is not None:
        settle(config.model, "text_dim", clip.encode_text([""]).states.shape[2], "model", path)
    model = build(Decoder, config, path, **config.model.model_dump(exclude_none=True))
    source = Source(config, clip, None if config.model.text_dim is None else CaptionEncoder(clip))
    val = source.validation()
    begin(config, clip, source.words())
    train(model, source.training(), val, config, sample=lambda model: sample_grid(model, val[0]),
          export=lambda model: model.save(Path(config.out) / "decoder"))  # fmt: skip


def train_upsampler(path, overrides=()):
    """Train an upsampler as a config says; writes OUT/upsampler-STAGE."""
    config = config_of_run(UpsamplerRun, path, overrides)
    settle(config.model, "image_size", config.data.image_size, "model", path, "data.image_size")
    clip = None
    if config.clip is None and config.model.embed_dim is not None:
        raise UserError(f"{path}: model.embed_dim is of a CLIP's embeddings: say in clip.name whose, or leave it out")
    if config.clip is not None:
        clip = frozen_clip(config.clip)
        settle(config.model, "embed_dim", clip.embed_dim, "model", path)
    model = build(Upsampler, config, path, **config.model.model_dump(exclude_none=True))
    if model.unet_last is not None:
        raise UserError(f"{path}: model.last_step is for weights trained elsewhere: leave it out")
    takes, drawn = model.image_size // model.scale, side_before(config.out, config.stage)
    if drawn not in (None, takes):
        raise UserError(f"{path}: this upsampler takes {takes}x{takes}, but {config.out} draws {drawn}x{drawn} before it")
    if config.redrawn is not None:
        check_drawn(config.redrawn.model, config.stage, takes, path)
    source = Source(config, clip)
    val = source.validation()
    batches = source.training() if config.redrawn is None else redrawn_batches(config, source.table, model.scale)
    if clip is not None:
        begin(config, clip)
    train(model, batches, val, config, sample=lambda model: upsampled_grid(model, val[0]),
          export=lambda model: model.save(Path(config.out) / f"upsampler-{config.stage}"))  # fmt: skip


def upsampled_grid(upsampler, batch):
    """Held-out pictures: shrunk and enlarged again by pixels, above what the upsampler makes of them, above the real."""
    columns, embed = 8, batch.get("image_embed")
    real = to_float(batch["image"][:columns]).to(upsampler.device)
    low = smaller(real, upsampler.scale)
    noise = SeededNoise(range(len(real)))
    drawn = upsampler.sample(low, None if embed is None else embed[:columns], noise=noise, noise_level=0.0)
    pixels = torch.nn.functional.interpolate(low, scale_factor=upsampler.scale)
    return grid([*to_pil(pixels), *to_pil(drawn), *to_pil(real)], len(real), scale=max(1, 128 // upsampler.image_size))


def sample_grid(decoder, batch):
    """Held-out pictures, each above what the decoder draws from its embedding."""
    embed = batch["image_embed"][:SAMPLES].to(decoder.device)
    texts = []
    if decoder.text_to_tokens is not None:
        text, null_text = text_of(batch, decoder.device)
        texts = [{k: v[:SAMPLES] for k, v in text.items()}, null_text]
    drawn = to_pil(decoder.sample(embed, *texts, noise=SeededNoise(range(len(embed))), num_inference_steps=25))
    real = to_pil(to_float(batch["image"][:SAMPLES]))
    columns = 8
    rows = [r for k in range(0, len(real), columns) for r in (real[k : k + columns], drawn[k : k + columns])]
    return grid([image for row in rows for image in row], columns, scale=max(1, 96 // decoder.image_size))


def begin(config, clip, words=None):
    """Make the model folder, or see that it fits; the first process does, the others wait for it."""
    if process().is_main_process:
        named = config.clip
        begin_model(config.out, named.name, named.pretrained, named.unit_variance, clip.fingerprint())
        if words is not None:
            write_vocabulary(config.out, words)
    process().wait_for_everyone()


def spare_decoders(config, folder, path):
    """Refuse a run whose `out` is the folder of its reference, or of a decoder that is not the run's own.

    Raises:
        UserError: it is.
    """
    if Path(config.out).resolve() == folder.resolve():
        raise UserError(f"{path}: out is the reference's own folder: name another")
    if (Path(config.out) / "decoder").is_dir() and not Path(config.train.run).is_dir():
        raise UserError(f"{path}: {config.out} has a decoder, which would be lost: name another folder for out")


def settle(section, name, value, place, path, origin="the CLIP's"):
    """Fill a setting in, or see that it is right. Raises UserError where the config gives another value."""
    given = getattr(section, name)
    if given is not None and given != value:
        raise UserError(f"{path}: {place}.{name} is {given}, but {origin} is {value}: leave it out")
    setattr(section, name, value)


def build(constructor, config, path, *args, **options):
    """A model with weights drawn by the run's seed. Raises UserError where its constructor refuses the options."""
    torch.manual_seed(config.train.seed)
    try:
        return constructor(*args, **options)
    except Exception as error:  # a nonsensical number can fail in any way
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{path}: these settings make no {constructor.__name__}: {reason}") from None


def frozen_clip(named):
    """The CLIP that an EncoderConfig names, on this process's device."""
    from ..clip import FrozenCLIP

    clip = FrozenCLIP(named.name, named.pretrained, unit_variance=named.unit_variance)
    return clip.to(process().device)

"""CLIP through OpenCLIP. The only file that imports open_clip.

Embedding convention: `encode_text` and `encode_image` return the pooled embedding as OpenCLIP computes it. With
`unit_variance=True` it is L2-normalised and multiplied by sqrt(D), so that its entries have a mean square of 1: what
this project's own models are trained on. Karlo and its kin use the raw embedding (`unit_variance=False`). Which of the
two a model uses is written in its `model_index.json`.
"""

import contextlib
import functools
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from .errors import UserError, first_line, nearest
from .files import new_folder
from .operators import declare_operators

FOLDER_WEIGHTS = ("open_clip_model.safetensors", "model.safetensors")


def import_open_clip():
    """The module open_clip, also beside PyTorch's CPU build (see operators.py)."""
    declare_operators()
    import open_clip

    return open_clip


@dataclass
class TextEncoding:
    """What the text tower says of B captions.

    embed: (B, D) pooled embedding; states: (B, L, W) of every token after the last layer norm; mask: bool (B, L), true
    from the start token through the end token.
    """

    embed: torch.Tensor
    states: torch.Tensor
    mask: torch.Tensor

    def batch(self):
        """As the keys that priors and decoders read from a batch."""
        return {"text_embed": self.embed, "text_states": self.states, "text_mask": self.mask}


class FrozenCLIP(nn.Module):
    """An OpenCLIP model that only looks: eval mode, no gradients, absent from `parameters()` and `state_dict()`.

    Args:
        name: what `open_clip.create_model` takes: an architecture ("ViT-L-14"), "hf-hub:...", "local-dir:...", or a
            local folder with `open_clip_config.json` and `open_clip_model.safetensors`.
        pretrained: the tag of the weights ("openai", "laion2b_s32b_b82k", ...) or a `.safetensors` file of them; None
            for folders and hub ids.
        unit_variance: see the module's convention.

    Raises:
        UserError: no such model or weights, an unfinished folder, or weights that come as a pickle.
    """

    def __init__(self, name, pretrained=None, *, unit_variance=False, device="cpu"):
        super().__init__()
        open_clip = import_open_clip()
        name = model_name(name, pretrained)
        # OpenCLIP only warns where the weights of a tag were trained with another activation than the architecture
        # of that name has (every "openai" tag), and computes something slightly wrong.
        quick_gelu = bool(pretrained) and open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False)
        what = f"CLIP {name} {pretrained or ''}".strip()
        with refusals(what), safetensors_only(what):
            model = open_clip.create_model(
                name, pretrained, device=device, force_quick_gelu=quick_gelu, require_pretrained=True,
                pretrained_text=False,  # no weights of a text tower alone in the place of missing ones
            )  # fmt: skip
            tokenizer = open_clip.get_tokenizer(name)
        # Held in a tuple, torch neither lists its weights as parameters nor saves them; `_apply` below moves them.
        self._held = (model.eval().requires_grad_(False), tokenizer)
        self.unit_variance = unit_variance
        self.image_size = square_side(model.visual.image_size)
        self.pixel_stats = (tuple(model.visual.image_mean), tuple(model.visual.image_std))
        self.squash = model.visual.preprocess_cfg.get("resize_mode") == "squash"

    @property
    def model(self):
        return self._held[0]

    @property
    def tokenizer(self):
        return self._held[1]

    def _apply(self, fn, *args, **kwargs):
        self.model._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def train(self, mode=True):
        """Frozen: stays in eval mode."""
        return super().train(False)

    @property
    def device(self):
        return self.model.logit_scale.device

    @property
    def dtype(self):
        return self.model.logit_scale.dtype

    @property
    def text_tower(self):
        """Where OpenCLIP keeps the text transformer: beside the image tower, or in `.text` (CustomTextCLIP, CoCa)."""
        return getattr(self.model, "text", self.model)

    @property
    def context_length(self):
        return self.tokenizer.context_length

    @functools.cached_property
    def embed_dim(self):
        """D, read off an encoding, since OpenCLIP's towers name it in different places."""
        return self.encode_text([""]).embed.shape[-1]

    def tokenize(self, captions):
        """List of B strings -> LongTensor (B, L), cleaned as OpenCLIP does (ftfy), cut at the context length."""
        return self.tokenizer(list(captions)).to(self.device)

    def num_tokens(self, caption):
        """How many tokens a caption has before it is cut, with its start and end."""
        if hasattr(self.tokenizer, "encode"):
            return len(self.tokenizer.encode(caption)) + 2
        clean = getattr(self.tokenizer, "clean_fn", str)
        return len(self.tokenizer.tokenizer(clean(caption), verbose=False).input_ids)

    @torch.no_grad()
    def encode_text(self, captions):
        """List of B strings -> TextEncoding. All of it from one pass through the text tower."""
        tokens, tower, seen = self.tokenize(captions), self.text_tower, []
        # All of OpenCLIP's text towers, its own and Hugging Face's, have their blocks in `.transformer`.
        hook = tower.transformer.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            embed = self.model.encode_text(tokens, normalize=False)
        finally:
            hook.remove()
        states = getattr(seen[-1], "last_hidden_state", seen[-1])  # a Hugging Face model returns a record
        if hasattr(tower, "ln_final"):  # Hugging Face's models have applied theirs
            # CoCa appends a class token to the text, and norms nothing else.
            states = tower.ln_final(states[:, : tokens.shape[1]])
        return TextEncoding(self._scaled(embed), states, token_mask(tokens, self.tokenizer))

    @torch.no_grad()
    def encode_image(self, images):
        """PIL images, or float (B, 3, H, W) in [-1, 1] of any size -> embedding (B, D).

        A PIL image that is not square is cropped to the centre, or squashed where the model was trained so (SigLIP).
        """
        if not torch.is_tensor(images):
            from .data.images import square, to_float, to_rgb, to_uint8

            size = self.image_size
            images = [to_rgb(image) for image in images]
            if self.squash:
                images = [image.resize((size, size), Image.Resampling.BICUBIC) for image in images]
            images = to_float(torch.stack([to_uint8(square(image, size)) for image in images]))
        pixels = self.preprocess(images.to(self.device)).to(self.dtype)
        return self._scaled(self.model.encode_image(pixels, normalize=False))

    def preprocess(self, images):
        """Float (B, 3, H, W) in [-1, 1] -> what the image tower takes: its size, its mean and deviation."""
        mean, std = torch.tensor(self.pixel_stats, device=images.device)[:, :, None, None]
        return ((resize(images, self.image_size) + 1) / 2 - mean) / std

    def logit_scale(self):
        """The learned inverse temperature of the softmax over cosines."""
        return self.model.logit_scale.exp().item()

    def _scaled(self, embed):
        if not self.unit_variance:
            return embed
        return (F.normalize(embed.float(), dim=-1) * embed.shape[-1] ** 0.5).to(embed.dtype)

    def fingerprint(self):
        """Ten hex digits that say which weights these are (and which conventions): names the embedding caches."""
        digest = hashlib.sha256(str(self.unit_variance).encode())
        if self.squash:
            digest.update(b"squash")  # another view of the same pictures
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.flatten()[:: max(1, value.numel() // 256)].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:10]


def model_name(name, pretrained=None):
    """The name of a CLIP as `open_clip.create_model` takes it; a local folder becomes 'local-dir:...'.

    Raises:
        UserError: no such architecture, tag or folder, a folder that is unfinished or holds pickles only, or weights
            that are neither in the name nor told by a tag.
    """
    open_clip = import_open_clip()
    name = str(name)
    architecture, path = name.replace("/", "-"), Path(name.removeprefix("local-dir:"))
    if path.is_dir():
        if not (path / "open_clip_config.json").is_file():
            raise UserError(f"the CLIP folder {path} is unfinished: it lacks open_clip_config.json")
        if not any((path / weights).is_file() for weights in FOLDER_WEIGHTS):
            raise UserError(f"the CLIP folder {path} is unfinished: it lacks {' or '.join(FOLDER_WEIGHTS)}")
        name = f"local-dir:{path}"
    elif name.startswith("local-dir:"):
        raise UserError(f"no CLIP folder {path}: train one with scripts/train_clip.py")
    elif architecture in open_clip.list_models():
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        file = pretrained and Path(pretrained).suffix == ".safetensors" and Path(pretrained).is_file()
        if not file and not (pretrained and open_clip.get_pretrained_cfg(architecture, pretrained)):
            wrong = f"no weights {pretrained!r}{nearest(pretrained, tags)}" if pretrained else "no weights named"
            choice = f"its tags are {', '.join(tags)}" if tags else "it has no tags: give a .safetensors file"
            raise UserError(f"CLIP {architecture}: {wrong}; {choice}")
        tag = {} if file else open_clip.get_pretrained_cfg(architecture, pretrained)
        if tag.get("url") and not tag.get("hf_hub"):  # before a pickle is downloaded for nothing
            refuse_pickle(tag["url"], f"CLIP {architecture} {pretrained}")
        return architecture
    elif not name.startswith("hf-hub:"):
        raise UserError(
            f"no CLIP {name!r}{nearest(name, open_clip.list_models())}: give a folder, hf-hub:ORG/NAME, or a name that "
            "open_clip.list_models() has"
        )
    if pretrained:
        raise UserError(f"CLIP {name} brings its own weights: leave the tag {pretrained!r} out")
    return name


@contextlib.contextmanager
def safetensors_only(what):
    """While it lasts, OpenCLIP reads no weights but safetensors.

    It takes safetensors where it finds them, and falls back to a pickle in silence: on the hub, at an address, and in
    a folder where the pickle has the name that it prefers. (Its "openai" tags are safetensors on the hub.)
    """
    factory = import_open_clip().factory
    load_checkpoint = factory.load_checkpoint

    def guarded(model, checkpoint_path, *args, **kwargs):
        refuse_pickle(checkpoint_path, what)
        return load_checkpoint(model, checkpoint_path, *args, **kwargs)

    factory.load_checkpoint = guarded
    try:
        yield
    finally:
        factory.load_checkpoint = load_checkpoint


def refuse_pickle(file, what):
    if not str(file).endswith(".safetensors"):
        raise UserError(f"{what} comes as {file}, but only safetensors are read: choose other weights, or remove it")


@contextlib.contextmanager
def refusals(what):
    """OpenCLIP's many ways to fail, as one line that names the model; its log lines are kept from the screen."""
    disabled, handlers = logging.root.manager.disable, logging.root.handlers[:]
    logging.disable(logging.ERROR)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot load {what} ({first_line(error)}): copy or fetch it again") from error
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers  # `logging.info`, as OpenCLIP calls it, sets up a handler


def square_side(size):
    return size if isinstance(size, int) else size[0]


def resize(images, side):
    """Float (B, 3, H, W) -> (B, 3, side, side), bicubic, antialiased; the same tensor where it has the size."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def token_mask(tokens, tokenizer):
    """Bool (B, L): true from the start token through the end token, false where the context is filled up.

    OpenCLIP's own tokenizer fills up with 0, which is a word to it too: its end token decides. Hugging Face's fill up
    with a pad token; where that is the end token as well (SigLIP), the first one is the end.
    """
    end, fill = getattr(tokenizer, "eot_token_id", None), None
    if end is None:
        end, fill = tokenizer.tokenizer.eos_token_id, tokenizer.tokenizer.pad_token_id
    stop = tokens == (end if fill is None else fill)
    count = stop.cumsum(dim=1)
    return count - stop.long() == 0 if fill in (None, end) else count == 0


def build_clip(config):
    """A new CLIP with random weights, of OpenCLIP's own classes.

    config: OpenCLIP's model config (embed_dim, vision_cfg, text_cfg, ...). A `timm_model_name` in vision_cfg makes a
    timm image tower.

    Raises:
        UserError: OpenCLIP refuses the config.
    """
    open_clip = import_open_clip()
    config = dict(config)
    custom = config.pop("custom_text", False) or "hf_model_name" in config.get("text_cfg", {})
    with refusals("the CLIP config"):
        if custom and "multimodal_cfg" in config:
            return open_clip.CoCa(**config)
        return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)


def save_clip(state, config, pixel_stats, folder):
    """Write an OpenCLIP folder, which plain `open_clip.create_model_and_transforms("local-dir:...")` loads.

    state: the model's tensors; config: as for `build_clip`; pixel_stats: (mean, std), three numbers each, of pixels
    in 0..1.
    """
    from safetensors.torch import save_file

    mean, std = pixel_stats
    preprocess = {"mean": list(mean), "std": list(std), "interpolation": "bicubic", "resize_mode": "shortest"}
    with new_folder(folder) as temporary:
        text = json.dumps({"model_cfg": dict(config), "preprocess_cfg": preprocess}, indent=2)
        (temporary / "open_clip_config.json").write_text(text + "\n")
        save_file({k: v.contiguous() for k, v in state.items()}, temporary / "open_clip_model.safetensors")


def clip_tokenizer(context_length):
    """OpenCLIP's own tokenizer (CLIP's byte-pair encoding, 49,408 entries)."""
    return import_open_clip().SimpleTokenizer(context_length=context_length)

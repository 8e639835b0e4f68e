"""CLIP through OpenCLIP. The only file that imports open_clip.

OpenCLIP takes longer to import than a picture to draw: with it come torchvision, timm and transformers. So a folder whose
text tower is plain is read without it, and OpenCLIP is called in when something else is asked for, such as the image tower.

Embedding convention: `encode_text` and `encode_image` return the pooled embedding as OpenCLIP computes it. With
`unit_variance=True` it is L2-normalised and multiplied by sqrt(D), so that its entries have a mean square of 1: what
this project's own models are trained on. Karlo and its kin use the raw embedding (`unit_variance=False`). Which of the
two a model uses is written in its `model_index.json`.
"""

import contextlib
import copy
import functools
import hashlib
import importlib.util
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from torch import nn

from .bare import bare
from .errors import UserError, first_line, nearest
from .files import new_folder
from .networks.text_tower import TextTower
from .operators import declare_operators
from .part import placed

FOLDER_CONFIG = "open_clip_config.json"
FOLDER_WEIGHTS = ("open_clip_model.safetensors", "model.safetensors")
TEXT_SETTINGS = {"context_length", "vocab_size", "width", "heads", "layers"}  # all of a plain text tower
TEXT_NAMES = {  # parts of the names of its weights, in OpenCLIP's CLIP and in `TextTower`
    "transformer.resblocks.": "blocks.",
    "positional_embedding": "positions",
    "text_projection": "projection",
    "ln_final": "norm_out",
    "ln_1": "norm_1",
    "ln_2": "norm_2",
    "attn.in_proj_": "qkv.",
    "attn.out_proj": "proj_out",
    "mlp.c_fc": "mlp_in",
    "mlp.c_proj": "mlp_out",
}


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

    Of a `PlainFolder` the text tower is read now, and OpenCLIP's whole `model` when it is first asked for; that may raise
    what is said below of loading.

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
        self.unit_variance, self._pretrained = unit_variance, pretrained
        self._name = name = model_name(name, pretrained)
        with refusals(self._what):
            self._plain = plain_folder(name)
            # Held in a dict, torch neither lists their weights as parameters nor saves them; `_apply` below moves them.
            if self._plain:
                self._held = {"text": self._plain.text_tower(device)}
                self.tokenizer = clip_tokenizer(self._plain.model["text_cfg"]["context_length"])
                self.squash = self._plain.preprocess.get("resize_mode") == "squash"
            else:
                self._held = {"model": self._load().to(device)}
                self.tokenizer = import_open_clip().get_tokenizer(name)
                self.squash = self.model.visual.preprocess_cfg.get("resize_mode") == "squash"

    @property
    def _what(self):
        return f"CLIP {self._name} {self._pretrained or ''}".strip()

    def _load(self):
        """The whole model, as OpenCLIP builds it."""
        open_clip, name, pretrained = import_open_clip(), self._name, self._pretrained
        # OpenCLIP only warns where the weights of a tag were trained with another activation than the architecture
        # of that name has (every "openai" tag), and computes something slightly wrong.
        quick_gelu = bool(pretrained) and open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False)
        with refusals(self._what), safetensors_only(self._what):
            model = open_clip.create_model(
                name, pretrained, force_quick_gelu=quick_gelu, require_pretrained=True,
                pretrained_text=False,  # no weights of a text tower alone in the place of missing ones
            )  # fmt: skip
        return model.eval().requires_grad_(False)

    @property
    def model(self):
        """OpenCLIP's model; loaded now, where the text tower was enough so far."""
        if "model" not in self._held:
            self._held["model"] = self._load().to(self.device, self.dtype)
        return self._held["model"]

    @property
    def image_size(self):
        return square_side(self.model.visual.image_size)

    @property
    def pixel_stats(self):
        return tuple(self.model.visual.image_mean), tuple(self.model.visual.image_std)

    def _apply(self, fn, *args, **kwargs):
        for module in self._held.values():
            module._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def train(self, mode=True):
        """Frozen: stays in eval mode."""
        return super().train(False)

    @property
    def device(self):
        return self._weight.device

    @property
    def dtype(self):
        return self._weight.dtype

    @property
    def _weight(self):
        return next(next(iter(self._held.values())).parameters())

    @property
    def text_tower(self):
        """Where OpenCLIP's model has its text transformer: beside the image tower, or in `.text` (CustomTextCLIP, CoCa)."""
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
        tokens = self.tokenize(captions)
        embed, states = self._held["text"](tokens) if self._plain else self._read(tokens)
        return TextEncoding(self._scaled(embed), states, token_mask(tokens, self.tokenizer))

    def _read(self, tokens):
        """The text embedding (B, D) and the states (B, L, W), through OpenCLIP, of tokens (B, L)."""
        tower, seen = self.text_tower, []
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
        return embed, states

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
        for name, value in sorted((self._plain.weights() if self._plain else self.model.state_dict()).items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.flatten()[:: max(1, value.numel() // 256)].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:10]


def model_name(name, pretrained=None):
    """The name of a CLIP as `open_clip.create_model` takes it; a local folder becomes 'local-dir:...'.

    Raises:
        UserError: no such architecture, tag or folder, a folder that is unfinished or holds pickles only, or weights
            that are neither in the name nor told by a tag.
    """
    name = str(name)
    path = Path(name.removeprefix("local-dir:"))
    if path.is_dir():
        if not (path / FOLDER_CONFIG).is_file():
            raise UserError(f"the CLIP folder {path} is unfinished: it lacks {FOLDER_CONFIG}")
        if not any((path / weights).is_file() for weights in FOLDER_WEIGHTS):
            raise UserError(f"the CLIP folder {path} is unfinished: it lacks {' or '.join(FOLDER_WEIGHTS)}")
        name = f"local-dir:{path}"
    elif name.startswith("local-dir:"):
        raise UserError(f"no CLIP folder {path}: train one with scripts/train_clip.py")
    elif not name.startswith("hf-hub:"):
        return architecture_name(name, pretrained)
    if pretrained:
        raise UserError(f"CLIP {name} brings its own weights: leave the tag {pretrained!r} out")
    return name


def architecture_name(name, pretrained):
    """The name of an architecture that OpenCLIP has, with weights; see `model_name`."""
    open_clip, architecture = import_open_clip(), name.replace("/", "-")
    if architecture not in open_clip.list_models():
        raise UserError(
            f"no CLIP {name!r}{nearest(name, open_clip.list_models())}: give a folder, hf-hub:ORG/NAME, or a name that "
            "open_clip.list_models() has"
        )
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


class PlainFolder(NamedTuple):
    """A CLIP folder whose text tower is plain. model, preprocess: the parts of its config; file: the weights."""

    model: dict
    preprocess: dict
    file: Path

    def weights(self):
        """All weights by name, as they are in the file."""
        with safe_open(self.file, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}

    def text_tower(self, device):
        """A `TextTower` in float32 with the folder's weights, which are read alone."""
        with bare():
            tower = TextTower(embed_dim=self.model["embed_dim"], **self.model["text_cfg"])
        state = {}
        for key, weight in self.weights().items():
            if not key.startswith(("visual.", "logit_scale")):
                for theirs, ours in TEXT_NAMES.items():
                    key = key.replace(theirs, ours)
                state[key] = placed(weight, device, torch.float32)
        tower.load_state_dict(state, assign=True)
        return tower.eval().requires_grad_(False)


def plain_folder(name):
    """The `PlainFolder` that a name as `model_name` gives it means; None for any other CLIP."""
    folder = Path(name.removeprefix("local-dir:"))
    if not name.startswith("local-dir:") or not (folder / FOLDER_WEIGHTS[0]).is_file():  # what OpenCLIP reads first
        return None
    config = json.loads((folder / FOLDER_CONFIG).read_text(encoding="utf-8"))
    model = config["model_cfg"]
    if set(model) != {"embed_dim", "vision_cfg", "text_cfg"} or set(model["text_cfg"]) != TEXT_SETTINGS:
        return None
    return PlainFolder(model, config.get("preprocess_cfg", {}), folder / FOLDER_WEIGHTS[0])


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
        (temporary / FOLDER_CONFIG).write_text(text + "\n")
        save_file({k: v.contiguous() for k, v in state.items()}, temporary / FOLDER_WEIGHTS[0])


def clip_tokenizer(context_length):
    """OpenCLIP's own tokenizer (CLIP's byte-pair encoding, 49,408 entries)."""
    tokenizer = copy.copy(tokenizer_module()._tokenizer)  # comes with the module; to make another reads all entries again
    tokenizer.context_length = context_length
    return tokenizer


@functools.cache
def tokenizer_module():
    """open_clip.tokenizer, loaded by itself from OpenCLIP's folder: it needs nothing of the rest."""
    file = Path(importlib.util.find_spec("open_clip").origin).with_name("tokenizer.py")
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

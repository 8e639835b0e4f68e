"""CLIP through OpenCLIP. The only file that imports open_clip.

Embedding convention: `encode_text` and `encode_image` return the pooled embedding as OpenCLIP computes it. With
`unit_variance=True` it is L2-normalised and multiplied by sqrt(D), so that its entries have a mean square of 1: what
this project's own models are trained on. Karlo and its kin use the raw embedding (`unit_variance=False`). Which of the
two a model uses is written in its `model_index.json`.
"""

import contextlib
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .errors import UserError
from .files import new_folder


def import_open_clip():
    """The module open_clip, also where torchvision's compiled operators cannot load.

    PyPI's torchvision wheel is built for the CUDA build of torch; beside the CPU build its operators do not load, and
    its import fails on the missing schema of `torchvision::nms`. open_clip uses none of these operators, so declaring
    the two schemas is enough.
    """
    with contextlib.suppress(RuntimeError, ImportError):
        import torchvision  # noqa: F401  (loads, or fails as described)
    try:
        import open_clip
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_open_clip.library = library  # the schemas live as long as this object
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
        pretrained: the tag of the weights ("openai", "laion2b_s32b_b82k", ...), None for folders and hub ids.
        unit_variance: see the module's convention.

    Raises:
        UserError: no such model, or an unfinished folder.
    """

    def __init__(self, name, pretrained=None, *, unit_variance=False, device="cpu"):
        super().__init__()
        open_clip = import_open_clip()
        name = folder_name(name)
        with refusals(f"CLIP {name} {pretrained or ''}".strip()):
            model = open_clip.create_model(name, pretrained=pretrained, device=device)
            tokenizer = open_clip.get_tokenizer(name)
        mean_std = [model.visual.image_mean, model.visual.image_std]
        self._hold(model.eval().requires_grad_(False), tokenizer)
        self.unit_variance = unit_variance
        self.image_size = square_side(model.visual.image_size)
        self.register_buffer("pixel_stats", torch.tensor(mean_std, device=device)[:, :, None, None], persistent=False)

    def _hold(self, model, tokenizer):
        # Held in a tuple, torch neither lists its weights as parameters nor saves them; `_apply` below moves them.
        self._held = (model, tokenizer)

    @property
    def model(self):
        return self._held[0]

    @property
    def tokenizer(self):
        return self._held[1]

    def _apply(self, fn, recurse=True):
        self.model._apply(fn)
        return super()._apply(fn)

    def train(self, mode=True):
        """Frozen: stays in eval mode."""
        return super().train(False)

    @property
    def device(self):
        return self.pixel_stats.device

    @property
    def text_tower(self):
        """Where OpenCLIP keeps the text transformer: beside the image tower, or in `.text` (CustomTextCLIP, CoCa)."""
        return getattr(self.model, "text", self.model)

    @property
    def context_length(self):
        return self.tokenizer.context_length

    @property
    def embed_dim(self):
        """D, read off an encoding, since OpenCLIP's towers name it in different places."""
        return self.encode_text([""]).embed.shape[-1]

    def tokenize(self, captions):
        """List of B strings -> LongTensor (B, L), cleaned as OpenCLIP does (ftfy), cut at the context length."""
        return self.tokenizer(list(captions)).to(self.device)

    def num_tokens(self, caption):
        """How many tokens a caption has before it is cut, with its start and end."""
        return len(self.tokenizer.encode(caption)) + 2 if hasattr(self.tokenizer, "encode") else None

    @torch.no_grad()
    def encode_text(self, captions):
        """List of B strings -> TextEncoding. All of it from one pass through the text tower."""
        tokens = self.tokenize(captions)
        states = {}
        tower = self.text_tower
        final = getattr(tower, "ln_final", None)
        if final is None:  # a Hugging Face text tower: no module that ends the token states
            raise UserError("this CLIP's text tower is a Hugging Face model: its token states are not read yet")
        handle = final.register_forward_hook(lambda module, inputs, output: states.update(last=output))
        try:
            embed = self.model.encode_text(tokens, normalize=False)
        finally:
            handle.remove()
        last = states["last"][:, : tokens.shape[1]]  # CoCa appends a class token to the text
        return TextEncoding(self._scaled(embed), last, token_mask(tokens, self.tokenizer))

    @torch.no_grad()
    def encode_image(self, images):
        """PIL images, or float (B, 3, H, W) in [-1, 1] of any size -> embedding (B, D)."""
        if not torch.is_tensor(images):
            from .data.images import square, to_float, to_uint8

            sides = [square(image.convert("RGB"), self.image_size) for image in images]
            images = to_float(torch.stack([to_uint8(side) for side in sides]))
        return self._scaled(self.model.encode_image(self.preprocess(images.to(self.device)), normalize=False))

    def preprocess(self, images):
        """Float (B, 3, H, W) in [-1, 1] -> what the image tower takes: its size, its mean and deviation."""
        mean, std = self.pixel_stats
        return ((resize(images, self.image_size) + 1) / 2 - mean) / std

    def logit_scale(self):
        """The learned inverse temperature of the softmax over cosines."""
        return self.model.logit_scale.exp().item()

    def _scaled(self, embed):
        return F.normalize(embed, dim=-1) * embed.shape[-1] ** 0.5 if self.unit_variance else embed

    def fingerprint(self):
        """Ten hex digits that say which weights these are (and which convention): names the embedding caches."""
        digest = hashlib.sha256(str(self.unit_variance).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.flatten()[:: max(1, value.numel() // 256)].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:10]


def folder_name(name):
    """A local folder as OpenCLIP's 'local-dir:...'; other names as they are. Raises UserError if it is unfinished."""
    path = Path(str(name).removeprefix("local-dir:"))
    if not path.is_dir():
        if str(name).startswith("local-dir:") or any(c in str(name) for c in "/\\") and ":" not in str(name):
            raise UserError(f"no CLIP folder {path}: train one with scripts/train_clip.py")
        return str(name)
    for needed in ("open_clip_config.json", "open_clip_model.safetensors"):
        if not (path / needed).is_file():
            raise UserError(f"the CLIP folder {path} is unfinished: it lacks {needed}")
    return f"local-dir:{path}"


@contextlib.contextmanager
def refusals(what):
    """OpenCLIP's many ways to fail, as one line that names the model; its log lines are kept from the screen."""
    import logging

    disabled, logging.root.manager.disable = logging.root.manager.disable, logging.WARNING
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"cannot load {what}: {reason}") from error
    finally:
        logging.root.manager.disable = disabled


def square_side(size):
    return size if isinstance(size, int) else size[0]


def resize(images, side):
    """Float (B, 3, H, W) -> (B, 3, side, side), bicubic, antialiased; the same tensor where it has the size."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def token_mask(tokens, tokenizer):
    """True from the start token through the end token. OpenCLIP's tokenizers fill up with zeros, or a pad token."""
    end = getattr(tokenizer, "eot_token_id", None)
    if end is not None:
        last = (tokens == end).int().argmax(dim=1)
    else:
        pad = getattr(getattr(tokenizer, "tokenizer", None), "pad_token_id", 0) or 0
        last = (tokens != pad).sum(dim=1) - 1
    return torch.arange(tokens.shape[1], device=tokens.device) <= last[:, None]


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

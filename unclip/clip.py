"""CLIP, frozen: what it says of captions and pictures.

OpenCLIP takes longer to import than a picture to draw, so a folder whose towers are plain is read without it, and OpenCLIP is
called in, through `openclip/library.py` alone, for everything else, such as an image tower of another kind.

Embedding convention: `encode_text` and `encode_image` return the pooled embedding as OpenCLIP computes it. With
`unit_variance=True` it is L2-normalised and multiplied by sqrt(D), so that its entries have a mean square of 1: what
this project's own models are trained on. Karlo and its kin use the raw embedding (`unit_variance=False`). Which of the
two a model uses is written in its `model_index.json`.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from .openclip.building import check_size
from .openclip.folder import plain_folder
from .openclip.library import import_open_clip, no_code, refusals, safetensors_only
from .openclip.names import model_name
from .openclip.tokenizer import beginnings, clip_tokenizer, token_mask


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

    Of a `PlainFolder` the text tower is read now, and the image tower, or OpenCLIP's whole `model` where that is not plain,
    when it is first asked for; that may raise what is said below of loading.

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
                with no_code(self._what):
                    self.tokenizer = import_open_clip().get_tokenizer(name)
                self.squash = self.model.visual.preprocess_cfg.get("resize_mode") == "squash"

    @property
    def _what(self):
        return f"CLIP {self._name} {self._pretrained or ''}".strip()

    @property
    def identity(self):
        """What it was called by, and its convention: the Args, as a dict."""
        name = self._name.removeprefix("local-dir:")
        return {"name": name, "pretrained": self._pretrained, "unit_variance": self.unit_variance}

    def _load(self):
        """The whole model, as OpenCLIP builds it."""
        open_clip, name, pretrained = import_open_clip(), self._name, self._pretrained
        # OpenCLIP only warns where the weights of a tag were trained with another activation than the architecture
        # of that name has (every "openai" tag), and computes something slightly wrong.
        quick_gelu = bool(pretrained) and open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False)
        with refusals(self._what), safetensors_only(self._what), no_code(self._what):
            if name.startswith("local-dir:"):
                check_size(Path(name.removeprefix("local-dir:")))
            model = open_clip.create_model(
                name, pretrained, force_quick_gelu=quick_gelu, require_pretrained=True,
                pretrained_text=False,  # no weights of a text tower alone in the place of missing ones
            )  # fmt: skip
        return model.eval().requires_grad_(False)

    @property
    def model(self):
        """OpenCLIP's model; loaded now, where the towers were enough so far."""
        if "model" not in self._held:
            self._held["model"] = self._load().to(self.device, self.dtype)
        return self._held["model"]

    def whole(self):
        """Itself, with all of it loaded now and not when it is first asked for."""
        if self._image_tower is None:
            self.model
        self.logit_scale()
        return self

    @property
    def _image_tower(self):
        """The image tower where it is plain; loaded now, where the text tower was enough so far. None: `model` has it."""
        if "image" not in self._held and self._plain and self._plain.image_is_plain:
            with refusals(self._what):
                self._held["image"] = self._plain.image_tower(self.device).to(self.dtype)
        return self._held.get("image")

    @property
    def image_size(self):
        return self._plain.image_size if self._image_tower else square_side(self.model.visual.image_size)

    @property
    def pixel_stats(self):
        if self._image_tower:
            return self._plain.pixel_stats
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
        return self.tokenizer(beginnings(captions)).to(self.device)

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
        tower = self._image_tower or functools.partial(self.model.encode_image, normalize=False)
        return self._scaled(tower(pixels))

    def preprocess(self, images):
        """Float (B, 3, H, W) in [-1, 1] -> what the image tower takes: its size, its mean and deviation."""
        mean, std = torch.tensor(self.pixel_stats, device=images.device)[:, :, None, None]
        return ((resize(images, self.image_size) + 1) / 2 - mean) / std

    def logit_scale(self):
        """The learned inverse temperature of the softmax over cosines."""
        return self._logit_scale if self._plain else self.model.logit_scale.exp().item()

    @functools.cached_property
    def _logit_scale(self):
        """That of a plain folder, which may be replaced once it has been read."""
        with refusals(self._what):
            return self._plain.logit_scale()

    def _scaled(self, embed):
        if not self.unit_variance:
            return embed
        return (F.normalize(embed.float(), dim=-1) * embed.shape[-1] ** 0.5).to(embed.dtype)

    def fingerprint(self):
        """Ten hex digits that say which weights these are (and which conventions)."""
        return self._fingerprint_of("")

    def image_fingerprint(self):
        """The same of the image tower alone: names the embedding caches, which outlast another text tower."""
        return self._fingerprint_of("visual.")

    def _fingerprint_of(self, prefix):
        digest = hashlib.sha256(str(self.unit_variance).encode())
        if self.squash:
            digest.update(b"squash")  # another view of the same pictures
        weights = self._plain.weights() if self._plain else self.model.state_dict()
        for name, value in sorted((name, value) for name, value in weights.items() if name.startswith(prefix)):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.flatten()[:: max(1, value.numel() // 256)].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:10]


def square_side(size):
    return size if isinstance(size, int) else size[0]


def resize(images, side):
    """Float (B, 3, H, W) -> (B, 3, side, side), bicubic, antialiased; the same tensor where it has the size."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)

"""Contrastive pre-training of a CLIP (Radford et al. 2021, section 2.3 and figure 3)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .clip import build_clip, clip_tokenizer, save_clip
from .data.images import to_float

# ImageNet's pixel statistics, (mean, std) of channels in 0..1
PIXEL_STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MAX_LOGIT_SCALE = 100.0
# of an architecture's text_cfg: what makes OpenCLIP load another tokenizer than the one this trains with
OTHER_TOKENIZER = ("hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs")


def contrastive_loss(image_embed, text_embed, logit_scale, concepts=None):
    """The symmetric cross-entropy over a batch of pairs; pairs with the same concept are positives of each other.

    A batch of B pairs gives B x B cosines, times `logit_scale`. Where a caption repeats, each of its n copies is the
    target with probability 1/n: otherwise equal things would be pushed apart. Without repeats this is CLIP's loss.

    Args:
        image_embed, text_embed: (B, D), of any length.
        logit_scale: the inverse temperature, a scalar tensor.
        concepts: B hashable values; None: all differ.

    Returns:
        The loss of each pair, (B,).
    """
    logits = logit_scale * F.normalize(image_embed, dim=-1) @ F.normalize(text_embed, dim=-1).T  # (B, B)
    if concepts is None:
        target = torch.eye(len(logits), device=logits.device)
    else:
        numbers = {c: k for k, c in enumerate(dict.fromkeys(concepts))}
        group = torch.tensor([numbers[c] for c in concepts], device=logits.device)
        target = (group[:, None] == group[None, :]).float()
        target = target / target.sum(dim=1, keepdim=True)
    by_image = -(target * logits.log_softmax(dim=1)).sum(dim=1)
    by_text = -(target * logits.T.log_softmax(dim=1)).sum(dim=1)
    return (by_image + by_text) / 2


class ContrastiveCLIP(nn.Module):
    """A CLIP in training: OpenCLIP's model, its tokenizer, augmentation and loss.

    Args:
        config: OpenCLIP's model config.
        crop: the smallest and largest side of the random crops that it trains on; None: whole pictures.
        train_size: the side that crops are scaled to; None: the largest. Small ones train faster; the last part of a
            training should have the size of whole pictures, for which the image tower is meant.
        low_resolution: share of pictures shrunk to half the size and back, so that small pictures are known too.

    Raises:
        ValueError: the config asks for another tokenizer than CLIP's own.
    """

    def __init__(self, config, crop=None, train_size=None, low_resolution=0.0):
        super().__init__()
        for key in OTHER_TOKENIZER:
            if config["text_cfg"].get(key):
                raise ValueError(f"text_cfg.{key}: a CLIP is trained with CLIP's own tokenizer alone: leave it out")
        self.config, self.crop, self.train_size, self.low_resolution = config, crop, train_size, low_resolution
        self.clip = build_clip(config)
        self.context_length = config["text_cfg"].get("context_length", 77)
        self.tokenizer = clip_tokenizer(self.context_length)
        stats = torch.tensor(PIXEL_STATS)[:, :, None, None]
        self.register_buffer("pixel_stats", stats, persistent=False)

    exported_prefix = "clip."  # of its parameters, which an OpenCLIP folder names without it
    # what Muon leaves to AdamW: the first layer, embeddings, the last projections
    edge_layers = ("clip.visual.trunk.stem", "clip.token_embedding", "clip.positional", "clip.text_projection")

    def loss(self, batch, generator=None):
        """Loss of each pair, (B,), and None for its timestep. batch: image uint8 (B, 3, S, S), caption, concept."""
        if self.training:
            self.bound_temperature()
        images = to_float(batch["image"].to(self.pixel_stats.device))
        tokens = self.tokenizer(batch["caption"]).to(self.pixel_stats.device)
        if self.training:
            images = self.augment(images)
        mean, std = self.pixel_stats
        images = ((images + 1) / 2 - mean) / std
        out = self.clip(images.contiguous(memory_format=torch.channels_last), tokens)
        image_embed, text_embed, logit_scale = out[:3] if isinstance(out, tuple) else (
            out["image_features"], out["text_features"], out["logit_scale"])  # fmt: skip
        return contrastive_loss(image_embed.float(), text_embed.float(), logit_scale, batch["concept"]), None

    @torch.no_grad()
    def bound_temperature(self):
        """Keep the learned scale of the logits within 1..100 (section 2.5). The parameter itself: a bound on what the
        loss reads of it would leave it without a gradient beyond, and saved as it is."""
        self.clip.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))

    def augment(self, images):
        """(B, 3, S, S) -> (B, 3, S', S'): for a share of the pictures half the resolution, and random crops.

        All is drawn anew for each picture: batch norm, whose statistics are those of a batch in training and of all
        batches after it, must not see batches that differ in kind.
        """
        batch, size = len(images), images.shape[-1]
        if self.low_resolution:
            blurred = F.interpolate(F.avg_pool2d(images, 2), (size, size), mode="bilinear", align_corners=False)
            images = torch.where(torch.rand(batch, 1, 1, 1, device=images.device) < self.low_resolution, blurred, images)
        if self.crop:
            side = torch.randint(self.crop[0], self.crop[1] + 1, (batch, 1))                              # (B, 1)
            corner = (torch.rand(batch, 2) * (size - side + 1)).floor()                                   # (B, 2) x, y
            # affine_grid's coordinates run from -1 to 1 over the picture
            scale, shift = side / size, (2 * corner + side) / size - 1
            theta = torch.cat([scale[:, :, None] * torch.eye(2), shift[:, :, None]], dim=2).to(images)    # (B, 2, 3)
            out = self.train_size or self.crop[1]
            grid = F.affine_grid(theta, (batch, 3, out, out), align_corners=False)
            images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return images

    def save(self, folder, state, dtype=torch.float16):
        """Write an OpenCLIP folder from a state (this module's own, or its EMA)."""
        prefix = self.exported_prefix
        tensors = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        # the last step came after the last bound
        tensors["logit_scale"] = tensors["logit_scale"].clamp(0, math.log(MAX_LOGIT_SCALE))
        tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}
        save_clip(tensors, self.config, PIXEL_STATS, folder)


"""Contrastive pre-training of a CLIP (Radford et al. 2021, section 2.3 and figure 3), one tower after the other or both."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .clip import resize, square_side
from .data.images import to_float
from .data.truth import READ_BY_TRUTH, truth_of
from .gathering import gathered, gathered_lists, own_rows, processes
from .openclip.building import build_clip, save_clip
from .openclip.tokenizer import beginnings, clip_tokenizer
from .precision import in_float32

# ImageNet's pixel statistics, (mean, std) of channels in 0..1
PIXEL_STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MAX_LOGIT_SCALE = 100.0
LABEL_SMOOTHING = 0.1
# of an architecture's text_cfg: what makes OpenCLIP load another tokenizer than the one this trains with
OTHER_TOKENIZER = ("hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs")


def contrastive_loss(image_embed, text_embed, logit_scale, truth=None, rows=slice(None)):
    """The symmetric cross-entropy over a batch of pairs, with every true pair a positive and only false ones negatives.

    A batch of B pairs gives B x B cosines, times `logit_scale`. In a batch of class names most captions are true of
    several pictures, and most pictures have several true captions ("a dog", "a puppy"). Each true pair is set against
    the false ones of its row alone, and a row's loss is the mean over its true pairs: otherwise equal things would be
    pushed apart. Pairs of which it is not known are left out. With a single true pair a row this is CLIP's loss.

    Args:
        image_embed, text_embed: (B, D), of any length.
        logit_scale: the inverse temperature, a scalar tensor.
        truth: int (B, B), whether text j is true of image i: 1 true, -1 false, 0 unknown; 1 on the diagonal. None: a
            text is true of its own image alone.
        rows: of which pairs the loss is wanted, b of the B.

    Returns:
        The loss of each of these pairs, (b,).
    """
    with in_float32(image_embed.device):  # half precision is too coarse for cosines times 100
        image, text = F.normalize(image_embed, dim=-1), F.normalize(text_embed, dim=-1)
        to_texts, to_images = logit_scale * image[rows] @ text.T, logit_scale * text[rows] @ image.T  # (b, B)
    if truth is None:
        truth = 2 * torch.eye(len(image), device=image.device) - 1
    return (against_false(to_texts, truth[rows]) + against_false(to_images, truth.T[rows])) / 2


def against_false(logits, truth):
    """For each row, the mean of -log(e^t / (e^t + sum of e^f)) over its true logits t, with f its false ones: (B,)."""
    false = logits.masked_fill(truth >= 0, -1e9).logsumexp(dim=1, keepdim=True)  # (B, 1)
    true = (truth > 0).to(logits)
    return (F.softplus(false - logits) * true).sum(dim=1) / true.sum(dim=1)


def cutmix(images, share):
    """Pictures in which a box is another picture's (Yun et al. 2019, "CutMix", equations 1 and 2).

    For a share of the pictures; each has its own box, whose area is uniform in 0..1 of the picture before it is clipped
    at the edge. It fights learning small sets by heart: no picture comes twice as it was.

    Args:
        images: (B, C, S, S).
        share: the probability that a picture is mixed.

    Returns:
        The pictures, the index (B,) of each one's other picture, and the share (B,) of the area that is its own.
    """
    batch, size, device = len(images), images.shape[-1], images.device
    other = torch.randperm(batch, device=device)
    side = size * torch.rand(batch, 1, device=device).sqrt() * (torch.rand(batch, 1, device=device) < share)
    centre, place = size * torch.rand(2, batch, 1, device=device), torch.arange(size, device=device) + 0.5
    rows, columns = (place - centre).abs() < side / 2                                                   # (B, S) each
    box = rows[:, :, None] & columns[:, None, :]                                                            # (B, S, S)
    return torch.where(box[:, None], images[other], images), other, 1 - box.float().mean(dim=(1, 2))


class ContrastiveCLIP(nn.Module):
    """A CLIP in training: OpenCLIP's model, its tokenizer, augmentation and loss.

    Args:
        config: OpenCLIP's model config.
        crop: the smallest and largest side of the random crops that it trains on; None: whole pictures.
        train_size: the side that they are scaled to; None: the largest crop's, or the image tower's for whole pictures.
            Small ones train faster; the last part of a training should have the size that the image tower is meant for.
        low_resolution: share of pictures shrunk to half the size and back, so that small pictures are known too.
        mix: share of pictures with a box of another one (see `cutmix`), whose label or caption then counts by its area.
        towers: which ones learn. "both", from each other. "image": the image tower alone, and in place of captions a
            learned vector for each of `num_labels` labels, which is quicker. "text": the image tower stays as it is
            (LiT, Zhai et al. 2022), which brings the captions to what it has learned.

    Raises:
        ValueError: the config asks for another tokenizer than CLIP's own, or "image" has no labels.
    """

    def __init__(
        self, config, crop=None, train_size=None, low_resolution=0.0, mix=0.0, towers="both", num_labels=None
    ):
        super().__init__()
        for key in OTHER_TOKENIZER:
            if config["text_cfg"].get(key):
                raise ValueError(f"text_cfg.{key}: a CLIP is trained with CLIP's own tokenizer alone: leave it out")
        if towers == "image" and not num_labels:
            raise ValueError("towers: image learns from labels, which these pictures lack: choose both")
        self.config, self.crop, self.train_size, self.low_resolution = config, crop, train_size, low_resolution
        self.mix, self.towers = mix, towers
        self.clip = build_clip(config)
        self.image_size = square_side(self.clip.visual.image_size)
        self.context_length = config["text_cfg"].get("context_length", 77)
        self.tokenizer = clip_tokenizer(self.context_length)
        self.labels = nn.Parameter(torch.randn(num_labels, config["embed_dim"])) if towers == "image" else None
        for name, parameter in self.clip.named_parameters():
            tower = "image" if name.startswith("visual.") else "text"
            parameter.requires_grad_((towers in ("both", tower) or name == "logit_scale") and name != "logit_bias")
        stats = torch.tensor(PIXEL_STATS)[:, :, None, None]
        self.register_buffer("pixel_stats", stats, persistent=False)

    exported_prefix = "clip."  # of its parameters, which an OpenCLIP folder names without it
    # what Muon leaves to AdamW: the first layer, embeddings, the last projections
    edge_layers = ("labels", "clip.visual.trunk.stem", "clip.token_embedding", "clip.positional", "clip.text_projection")

    def train(self, mode=True):
        """Batch norm in a tower that does not learn keeps its statistics."""
        super().train(mode)
        if self.towers == "text":
            self.clip.visual.eval()
        return self

    def loss(self, batch, generator=None):
        """Loss of each pair, (B,), and None for its timestep. Where several processes train, a pair is set against those of all.

        batch: image uint8 (B, 3, S, S); what `read` adds, or label (B,) for the image tower alone.
        """
        if self.training:
            self.bound_temperature()
        images = to_float(batch["image"].to(self.pixel_stats.device))
        images = self.augment(images) if self.training else resize(images, self.image_size)
        mixed = self.training and self.mix
        if mixed:
            images, other, own = cutmix(images, self.mix)
        mean, std = self.pixel_stats
        images = ((images + 1) / 2 - mean) / std
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.towers != "text"):
            image_embed = self.clip.encode_image(images.contiguous(memory_format=torch.channels_last)).float()
        device, logit_scale = image_embed.device, self.clip.logit_scale.exp()
        if self.towers == "image":
            logits = logit_scale * F.normalize(image_embed, dim=-1) @ F.normalize(self.labels, dim=-1).T      # (B, K)
            label = batch["label"].to(device)

            def loss_as(of):
                return F.cross_entropy(logits, label[of], label_smoothing=LABEL_SMOOTHING, reduction="none")
        else:
            text_embed, truth, rows = self.clip.encode_text(batch["tokens"].to(device)).float(), batch["truth"], slice(None)
            together = self.training and processes() > 1  # every pair of all processes is a negative of the others
            if together:
                image_embed, text_embed, rows = gathered(image_embed), gathered(text_embed), own_rows(len(images))
                truth = truth_of(gathered_lists(batch, READ_BY_TRUTH))
            truth = truth.to(device)

            def loss_as(of):
                of = gathered(of + rows.start) if together else of
                return contrastive_loss(image_embed, text_embed[of], logit_scale, truth[of][:, of], rows)

        loss = loss_as(torch.arange(len(images), device=device))
        if mixed:
            loss = own * loss + (1 - own) * loss_as(other)
        return loss, None

    def read(self, batch):
        """A batch with the tokens of its captions, LongTensor (B, L), and their truth, int8 (B, B): what only the CPU can
        make, and can make before the batch is due.

        batch: caption, a list of B strings, and what `truth_of` reads.
        """
        return {**batch, "tokens": self.tokenizer(beginnings(batch["caption"])), "truth": truth_of(batch)}

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
        batch, size, device = len(images), images.shape[-1], images.device
        if self.low_resolution:
            blurred = F.interpolate(F.avg_pool2d(images, 2), (size, size), mode="bilinear", align_corners=False)
            images = torch.where(torch.rand(batch, 1, 1, 1, device=device) < self.low_resolution, blurred, images)
        if self.crop is None:
            images = resize(images, self.train_size or self.image_size)
        else:
            side = torch.randint(self.crop[0], self.crop[1] + 1, (batch, 1), device=device)               # (B, 1)
            corner = (torch.rand(batch, 2, device=device) * (size - side + 1)).floor()                    # (B, 2) x, y
            # affine_grid's coordinates run from -1 to 1 over the picture
            scale, shift = side / size, (2 * corner + side) / size - 1
            shrink = scale[:, :, None] * torch.eye(2, device=device)                                      # (B, 2, 2)
            theta = torch.cat([shrink, shift[:, :, None]], dim=2).to(images)                              # (B, 2, 3)
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


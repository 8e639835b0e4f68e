"""The last part of a CLIP's training: its text tower is led to what the pictures of each caption look like on average."""

import torch
import torch.nn.functional as F

from .contrastive import ContrastiveCLIP
from .data.means import MeanEmbeddings
from .openclip.tokenizer import beginnings
from .precision import in_float32


class LedText(ContrastiveCLIP):
    """A CLIP whose image tower stays as it is, and whose text tower learns to answer a caption with a mean embedding.

    A contrastive loss teaches what tells the pictures of a batch apart, and so the training pictures themselves, which the
    image tower knows by heart; the means of their embeddings hardly know single pictures. And a batch teaches a noun by what is
    frequent in it, where the mean gives each class below the noun the same weight.

    Args:
        config: OpenCLIP's model config.

    Raises:
        ValueError: see ContrastiveCLIP.
    """

    def __init__(self, config):
        super().__init__(config, towers="text")
        self.clip.logit_scale.requires_grad_(False)
        self.means = None

    def lead(self, table):
        """Take the means of a labelled Table with its embeddings, before any batch is read.

        Raises:
            UserError: a set without labels.
        """
        self.means = MeanEmbeddings(table)

    def read(self, batch):
        """A batch with the tokens of its captions, LongTensor (B, L), and their means, float32 (B, D)."""
        return {**batch, "tokens": self.tokenizer(beginnings(batch["caption"])), "mean": self.means(batch)}

    def loss(self, batch, generator=None):
        """Loss of each caption, (B,), and None for its timestep: 1 less the cosine of its embedding and its mean.

        In evaluation the picture's own `image_embed` is in the mean's place: how well captions fit pictures never seen.
        """
        led_to = batch["mean" if self.training else "image_embed"]
        text_embed = self.clip.encode_text(batch["tokens"].to(self.pixel_stats.device)).float()
        with in_float32(text_embed.device):
            return 1 - F.cosine_similarity(text_embed, led_to.to(text_embed.device), dim=-1), None

"""The prior: CLIP text -> CLIP image embedding (Ramesh et al. 2022, section 2.2, the diffusion prior)."""

from typing import Literal, Optional

import torch
import torch.nn.functional as F

from .conditioning import check_share, drawn, drop_text, on, text_and_null, text_of, trimmed
from .diffusion import (
    SAMPLERS, Denoiser, Schedule, composed, draw_timesteps, guided, noise_calls, noise_like, thresholded, training_loss,
)  # fmt: skip
from .networks.prior_transformer import PriorTransformer
from .part import Part


class DiffusionPrior(Part):
    """A causal transformer that denoises standardised image embeddings and predicts x_0.

    Inside, an embedding is (z - mean) / std with the statistics of the training set, stored with the weights; `sample`
    gives it back in CLIP's own units.

    Args:
        transformer: keywords of `PriorTransformer`, less embed_dim.
        embed_dim: D of the image embedding.
        schedule, num_timesteps: of the forward process.
        text_drop: share of captions dropped in training for guidance.
        clamp: bound on x_0 in sampling, in standard deviations; None: none.
        spacing: which timesteps a short sampling run visits.
    """

    edge_layers = ("transformer.positions", "transformer.time_embed", "transformer.out")

    def __init__(
        self,
        *,
        transformer: dict,
        embed_dim: int,
        schedule: Literal["linear", "cosine"] = "cosine",
        num_timesteps: int = 1000,
        prediction: Literal["eps", "x_0", "v"] = "x_0",
        text_drop: float = 0.1,
        clamp: Optional[float] = None,
        spacing: Literal["linspace", "leading", "trailing"] = "trailing",
    ):
        super().__init__()
        check_share("text_drop", text_drop)
        self.text_drop, self.clamp, self.spacing, self.embed_dim = text_drop, clamp, spacing, embed_dim
        self.transformer = PriorTransformer(embed_dim=embed_dim, **transformer)
        self.register_buffer("mean", torch.zeros(embed_dim))
        self.register_buffer("std", torch.ones(embed_dim))
        self.schedule = Schedule.named(schedule, num_timesteps)
        self.denoiser = Denoiser(self.network, self.schedule, prediction)

    def set_statistics(self, image_embed):
        """Take mean and standard deviation from the embeddings (N, D) of the training set."""
        self.mean.copy_(image_embed.float().mean(dim=0))
        self.std.copy_(image_embed.float().std(dim=0, correction=0).clamp(min=1e-4))

    def read(self, text):
        """The condition that `network` takes, from the text keys (B, ...): what of a caption holds for every step."""
        embed, states = text["text_embed"].to(self.dtype), text["text_states"].to(self.dtype)
        return {"memory": self.transformer.read(embed, states, text["text_mask"]), "text_mask": text["text_mask"]}

    def network(self, x_t, t, memory, text_mask):
        """The raw output for noised embeddings (B n, D), n a caption, t (B n,), and B captions as `read` gives them."""
        return self.transformer.denoise(x_t.to(self.dtype), t, memory, text_mask)

    def loss(self, batch, generator=None):
        """Algorithm 1 on embeddings, captions dropped at random: (loss of each sample (B,), t / T (B,)).

        batch: image_embed (B, D); text_embed, text_states, text_mask and the empty caption's as null_text_... (1, ...).
        """
        x_0 = (batch["image_embed"].to(self.mean) - self.mean) / self.std                                    # (B, D)
        t = draw_timesteps(len(x_0), self.schedule.num_timesteps, generator, self.device)
        eps = noise_like(x_0, generator)
        text, null_text = text_of(batch, self.device)
        text = drop_text(text, null_text, drawn(self.text_drop, len(x_0), generator, self.device))
        return training_loss(self.denoiser, x_0, t, eps, **self.read(text)), t / self.schedule.num_timesteps

    @torch.no_grad()
    def sample(
        self, text, null_text, parts=(), weights=None, rivals=None, against=None, *, noise, num_inference_steps=25,
        guidance_scale=1.0, num_samples=2, sampler="ddpm", callback=None,
    ):  # fmt: skip
        """Draw image embeddings for captions: (B, D), in CLIP's units.

        Args:
            text, null_text: the text keys of B captions and of the empty caption (1, ...), or of what guidance is to
                lead away from.
            parts, weights: captions made of several: the text keys (B, ...) of each of K parts, and how much it counts,
                (K, B); see `diffusion.composed`. None: the captions as they are.
            noise: a SeededNoise for B embeddings.
            sampler: a key of `SAMPLERS`; callback: see diffusion/samplers.py; its batch is B * num_samples, those of a
                caption next to each other.
            num_samples: how many are drawn a caption, all at once; the one nearest to the text embedding is kept (section 2.2
                draws two), or with the largest margin to rivals.
            rivals, against: text embeddings (C, D) of what is not meant, and of which captions, bool (B, C): see
                `margins`. None: there are none.
        """
        batch = len(text["text_embed"])
        text, null, *parts = trimmed(*text_and_null(text, null_text, self.device), *(on(part, self.device) for part in parts))
        if parts:
            conds = [self.read(part) for part in parts]
            weights = guidance_scale * weights.repeat_interleave(num_samples, dim=1)                      # (K, B n)
            denoise = composed(self.denoiser, conds, self.read(null), weights)
        else:
            denoise = guided(self.denoiser, self.read(text), self.read(null), guidance_scale)
        denoise = thresholded(denoise, self.schedule, static=self.clamp)
        timesteps = self.schedule.timesteps(num_inference_steps, spacing=self.spacing)
        draws = 1 + noise_calls(sampler, len(timesteps))
        x_T, *later = noise.ahead(num_samples, draws, (batch, self.embed_dim)).to(self.device)            # each (B n, D)
        later = iter(later)
        x_0 = SAMPLERS[sampler](
            denoise, x_T, timesteps, self.schedule, noise=lambda x: next(later).to(x), callback=callback
        )
        embeds = (x_0 * self.std + self.mean).unflatten(0, (batch, num_samples))                          # (B, n, D)
        if rivals is not None:
            rivals, against = rivals.to(embeds.device), against.to(embeds.device)
        best = margins(embeds.float(), text["text_embed"].float(), rivals, against).argmax(dim=1)             # (B,)
        return embeds[torch.arange(batch, device=embeds.device), best]


def margins(image_embed, text_embed, rivals=None, against=None):
    """How far n embeddings a caption, (B, n, D), are nearer to its text, (B, D), than to the nearest of its rivals: (B, n).

    The cosine to the text, less the largest to a rival's; for a caption without rivals the cosine alone, as in section 2.2 of
    Ramesh et al. 2022 (there the dot product). rivals: text embeddings (C, D); against: bool (B, C), which are a caption's.
    """
    image_embed = F.normalize(image_embed, dim=-1)
    nearness = (image_embed * F.normalize(text_embed, dim=-1)[:, None]).sum(-1)                               # (B, n)
    if rivals is None:
        return nearness
    others = image_embed @ F.normalize(rivals, dim=-1).T                                                      # (B, n, C)
    nearest = others.masked_fill(~against[:, None], -torch.inf).amax(-1)
    return nearness - torch.where(against.any(1)[:, None], nearest, 0.0)

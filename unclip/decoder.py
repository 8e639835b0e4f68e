"""The decoder: CLIP image embedding -> pixels (Ramesh et al. 2022, section 2.1)."""

from typing import Literal, Optional

import torch
from torch import nn

from .conditioning import check_share, drawn, drop_text, rows, text_and_null, text_of, trimmed
from .data.images import to_float
from .diffusion import Denoiser, Schedule, draw_timesteps, during, guided, noise_like, thresholded, training_loss
from .errors import UserError
from .networks.sizes import check_sizes
from .networks.unet import UNet
from .stage import Stage


class Decoder(Stage):
    """A U-Net on pixels that is told the picture's CLIP image embedding and, optionally, the caption.

    As in the paper, the image embedding is added to the timestep embedding and becomes `image_tokens` extra context
    tokens; the caption's token states are further context, and its pooled embedding joins the timestep's. The
    absent image is a learned embedding, the absent caption the empty one.

    Args:
        unet: keywords of `UNet`, less in_channels and out_channels. context_dim follows from what stands here (text_dim,
            else embed_dim) where it is not given.
        image_size: side of the pictures.
        embed_dim: D of the image embedding (and of the text embedding).
        image_tokens: how many context tokens it becomes; 0 for none.
        text_dim: width of the text states; None: the caption is not shown to the decoder.
        schedule, num_timesteps: of the forward process.
        prediction: "eps", "x_0" or "v"; learned_variance: predict the variance's place as well.
        weighting, vlb_weight: see `training_loss`.
        timestep_density: of the timesteps that training draws, see `draw_timesteps`. Validation draws them uniformly,
            so that the figures of two runs compare.
        image_drop, text_drop: shares dropped in training for guidance.
        spacing: which timesteps a short sampling run visits, see `Schedule.timesteps`.
        step_counts: of a distilled decoder (see distillation.py), the numbers of steps in which it draws, and no others;
            it is told which. None: it draws in any.

    Raises:
        ValueError: options that contradict each other.
    """

    edge_layers = ("unet.conv_in", "unet.conv_out", "unet.time_embed", "steps_to_time")

    def __init__(
        self,
        *,
        unet: dict,
        image_size: int,
        embed_dim: int,
        image_tokens: int = 4,
        text_dim: Optional[int] = None,
        schedule: Literal["linear", "cosine"] = "cosine",
        num_timesteps: int = 1000,
        prediction: Literal["eps", "x_0", "v"] = "v",
        learned_variance: bool = False,
        weighting: Literal["simple", "min_snr"] = "simple",
        vlb_weight: float = 0.0,
        timestep_density: Literal["uniform", "logit_normal"] = "uniform",
        image_drop: float = 0.1,
        text_drop: float = 0.5,
        spacing: Literal["linspace", "leading", "trailing"] = "trailing",
        step_counts: Optional[list[int]] = None,
    ):
        super().__init__()
        check_sizes(image_size=image_size, embed_dim=embed_dim, text_dim=text_dim, step_counts=step_counts)
        check_sizes(0, image_tokens=image_tokens)
        check_share("image_drop", image_drop)
        check_share("text_drop", text_drop)
        if learned_variance != (vlb_weight > 0) or vlb_weight < 0:
            raise ValueError(f"learned_variance={learned_variance} needs vlb_weight {'> 0' if learned_variance else '0'}")
        self.image_size, self.image_tokens, self.spacing = image_size, image_tokens, spacing
        self.image_drop, self.text_drop, self.step_counts = image_drop, text_drop, step_counts
        self.weighting, self.vlb_weight, self.timestep_density = weighting, vlb_weight, timestep_density
        context_dim = unet.get("context_dim")
        if image_tokens or text_dim:
            context_dim = context_dim or text_dim or embed_dim
        elif context_dim:
            raise ValueError(f"context_dim={context_dim}, but neither image_tokens nor text_dim to fill the context")
        self.unet = UNet(in_channels=3, out_channels=6 if learned_variance else 3, **{**unet, "context_dim": context_dim})
        if image_size % self.unet.downsampling:
            raise ValueError(f"image_size={image_size} is no multiple of {self.unet.downsampling}, as the U-Net needs")
        width = self.unet.time_embed_dim
        self.null_image = nn.Parameter(torch.zeros(embed_dim))
        self.image_to_time = nn.Linear(embed_dim, width)
        self.image_to_tokens = nn.Linear(embed_dim, context_dim * image_tokens) if image_tokens else None
        self.text_to_time = nn.Linear(embed_dim, width) if text_dim else None
        self.text_to_tokens = nn.Linear(text_dim, context_dim) if text_dim else None
        self.text_norm = nn.LayerNorm(context_dim) if text_dim else None
        self.steps_to_time = nn.Embedding(len(step_counts), width) if step_counts else None
        if step_counts:
            nn.init.zeros_(self.steps_to_time.weight)
        self.schedule = Schedule.named(schedule, num_timesteps)
        self.denoiser = Denoiser(self.network, self.schedule, prediction, learned_variance)

    def read(self, image_embed, text_embed=None, text_states=None, text_mask=None, steps=None):
        """The condition that `network` takes, for image_embed (B, D) and, if used, the text, and of the number of steps its
        place in step_counts (B,): what holds for every step."""
        image_embed = image_embed.to(self.dtype)
        emb = self.image_to_time(image_embed)                                                              # (B, E)
        if self.steps_to_time is not None:
            emb = emb + self.steps_to_time(steps)
        tokens, mask = [], None
        if self.image_to_tokens is not None:
            tokens.append(self.image_to_tokens(image_embed).unflatten(1, (self.image_tokens, -1)))         # (B, 4, C)
        if self.text_to_tokens is not None:
            emb = emb + self.text_to_time(text_embed.to(self.dtype))
            tokens.append(self.text_norm(self.text_to_tokens(text_states.to(self.dtype))))                 # (B, L, C)
            mask = torch.cat([text_mask.new_ones(len(text_mask), self.image_tokens), text_mask], dim=1)    # (B, 4 + L)
        context_kv = self.unet.read(torch.cat(tokens, dim=1)) if tokens else None                          # (B, 4 + L, K)
        return {"emb": emb, "context_kv": context_kv, "context_mask": mask}

    def network(self, x_t, t, emb, context_kv, context_mask):
        """The raw output of the U-Net for x_t (B, 3, H, W), t (B,) and the condition as `read` gives it."""
        return self.unet.denoise(x_t.to(self.dtype), t, emb, context_kv, context_mask)

    def loss(self, batch, generator=None):
        """Algorithm 1 of DDPM with dropped conditions: (loss of each sample (B,), t / T (B,)).

        batch: image uint8 (B, 3, S, S); image_embed (B, D); with text also text_embed, text_states, text_mask and the
        empty caption's as null_text_... (1, ...).
        """
        x_0 = to_float(batch["image"].to(self.device))                                                 # (B, 3, S, S)
        density = self.timestep_density if self.training else "uniform"
        t = draw_timesteps(len(x_0), self.schedule.num_timesteps, generator, self.device, density)
        eps = noise_like(x_0, generator)
        embed = batch["image_embed"].to(x_0)
        dropped = drawn(self.image_drop, len(x_0), generator, self.device)
        cond = {"image_embed": torch.where(rows(dropped, embed), self.null_image.to(embed), embed)}
        if self.text_to_tokens is not None:
            text, null_text = text_of(batch, self.device)
            cond |= drop_text(text, null_text, drawn(self.text_drop, len(x_0), generator, self.device))
        losses = training_loss(
            self.denoiser, x_0, t, eps, weighting=self.weighting, vlb_weight=self.vlb_weight, **self.read(**cond)
        )
        return losses, t / self.schedule.num_timesteps

    @torch.no_grad()
    def sample(
        self, image_embed, text=None, null_text=None, *, noise, num_inference_steps=50, guidance_scale=2.0,
        guidance_start=0.0, guidance_end=1.0, sampler="ddim", eta=0.0, null_embed=None, start=None, callback=None,
    ):  # fmt: skip
        """Draw pictures for image embeddings (B, D): float (B, 3, S, S) in [-1, 1].

        Args:
            text, null_text: text keys of the captions (B, ...) and of the empty caption (1, ...), where text is used.
            noise: a SeededNoise for B pictures.
            guidance_start, guidance_end: the part of the way in which there is guidance, see `diffusion.during`.
            null_embed: (B, D), from which guidance leads away; None: the learned absent image.
            sampler, eta, start, callback: see `Stage.draw`.

        Raises:
            ValueError: a number of steps that the schedule does not have, or no text for a decoder that needs it.
            UserError: see `guided`.
        """
        return self.draw(
            self.guided(
                image_embed, text, null_text, guidance_scale, guidance_start, guidance_end, null_embed, num_inference_steps
            ),
            (len(image_embed), 3, self.image_size, self.image_size),
            noise=noise, num_inference_steps=num_inference_steps, sampler=sampler, eta=eta, start=start, callback=callback,
        ).clamp(-1, 1)  # fmt: skip

    def invert(
        self, images, image_embed, text=None, null_text=None, *, num_inference_steps=50, guidance_scale=2.0,
        guidance_start=0.0, guidance_end=1.0, strength=1.0, callback=None,
    ):  # fmt: skip
        """What `sample` draws pictures (B, 3, S, S) from, nearly, with sampler "ddim": x_t of a `Start`, (B, 3, S, S).

        strength: how far back to go; 1: to noise. The others: as `sample`'s.
        """
        denoiser = self.guided(
            image_embed, text, null_text, guidance_scale, guidance_start, guidance_end, num_inference_steps=num_inference_steps
        )
        return self.inverted(
            denoiser, images, num_inference_steps=num_inference_steps, strength=strength, callback=callback
        )

    def guided(
        self, image_embed, text=None, null_text=None, guidance_scale=2.0, guidance_start=0.0, guidance_end=1.0, null_embed=None,
        num_inference_steps=None,
    ):  # fmt: skip
        """The denoiser (x_t, t) -> Prediction for these conditions, guided, x_0 clamped to [-1, 1]; see `sample`.

        num_inference_steps: read where the decoder is distilled. Raises UserError where it is none of its step counts.
        """
        image_embed = image_embed.to(self.device)
        null = self.null_image if null_embed is None else null_embed.to(image_embed)
        cond, null = {"image_embed": image_embed}, {"image_embed": null.expand_as(image_embed)}
        if self.text_to_tokens is not None:
            if text is None or null_text is None:
                raise ValueError("this decoder reads captions: give text and null_text")
            text, null_text = trimmed(*text_and_null(text, null_text, self.device))
            cond, null = {**cond, **text}, {**null, **null_text}
        if self.step_counts:
            k = self.check_steps(num_inference_steps)
            cond["steps"] = null["steps"] = torch.full((len(image_embed),), k, device=self.device)
        cond, null = self.read(**cond), self.read(**null)
        plain, with_guidance = (guided(self.denoiser, cond, null, scale) for scale in (1, guidance_scale))
        denoiser = during(with_guidance, plain, self.schedule, guidance_start, guidance_end)
        return thresholded(denoiser, self.schedule, static=1.0)

    def check_steps(self, num_inference_steps):
        """The place of a number of steps in step_counts. Raises UserError for one that is not there."""
        if num_inference_steps not in self.step_counts:
            known = ", ".join(map(str, self.step_counts))
            raise UserError(f"{num_inference_steps} steps: this decoder was distilled and draws in {known}: choose one")
        return self.step_counts.index(num_inference_steps)

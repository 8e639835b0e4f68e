"""A decoder that learns to draw what others recognise: reward fine-tuning.

Wu et al. 2024, "Deep Reward Supervisions for Tuning Text-to-Image Diffusion Models" (DRTune, arXiv:2405.00760): a picture is
drawn in n guided steps, as it always is, a reward is asked of it, and the reward's gradient goes back to some of these steps,
spread over the way. What a step was given is held fixed, so that the gradient need not go through the networks of the steps
after it, where it would explode. Of a network that predicts v, with alpha_t = cos(phi_t) and sigma_t = sin(phi_t), a step of
DDIM is a turn (Salimans & Ho 2022, appendix D),

    x_t' = cos(delta) x_t - sin(delta) v-hat(x_t),    delta = phi_t - phi_t',

so with the networks' inputs held fixed the picture depends on step k's v-hat by -sin(delta_k) times the product of cos(delta_j)
over the steps j after it: early steps, which decide on form, are told as much as late ones. Guidance with scale s multiplies
what the conditional v-hat is told by s; the unconditional one learns nothing.

Beside the reward stands how far the decoder has gone from where it began, the squared distance of the two v-hats, so that
pictures stay what photographs taught. A critic, which learns meanwhile to tell drawings from photographs, may reward pictures
in which it sees none of a drawing.
"""

import torch
from torch import nn

from .data.images import to_float
from .decoder import Decoder
from .diffusion import SeededNoise
from .diffusion.guidance import within
from .errors import UserError


class RewardTuning(nn.Module):
    """A decoder, which begins with the reference's weights, and its loss. It and a critic are trained; it alone is exported.

    Args:
        reference: the Decoder to begin with, which stays as it is. Its device is the caller's to choose.
        reward: (pictures (B, 3, S, S) in [-1, 1], labels (B,), generator) -> (B,), differentiable in the pictures.
        num_inference_steps: in which pictures are drawn, by DPM-Solver++, whose first order is DDIM.
        trained_steps: how many of these learn, at random, one in each of as many equal parts of the way.
        closeness: what the squared distance of v-hat to the reference's, summed over the pixels, counts beside the reward.
        critic: a Critic, whose score joins the reward; None: there are no photographs.
        realism: what its score counts beside the reward.
        guidance_scale, guidance_start, guidance_end: with which pictures are drawn.

    Raises:
        UserError: a decoder that cannot be tuned so, or more trained steps than steps.
    """

    exported_prefix = "decoder."
    edge_layers = (*("decoder." + name for name in Decoder.edge_layers), "critic.")

    def __init__(
        self, reference: Decoder, reward, *, num_inference_steps: int = 10, trained_steps: int = 4, closeness: float = 0.1,
        critic=None, realism: float = 0.2, guidance_scale: float, guidance_start: float = 0.0, guidance_end: float = 1.0,
    ):  # fmt: skip
        super().__init__()
        if reference.text_to_tokens is not None:
            raise UserError("this decoder reads captions: reward one that reads image embeddings alone")
        if reference.step_counts:
            raise UserError("this decoder was distilled: reward its teacher, and distil that")
        if reference.denoiser.prediction != "v" or reference.denoiser.learned_variance:
            raise UserError("steps turn by v-hat alone: reward a decoder that predicts v, and no variance")
        if not 1 <= trained_steps <= num_inference_steps <= reference.schedule.num_timesteps:
            raise UserError(f"{trained_steps} of {num_inference_steps} steps learn: at least 1, and no more than there are")
        self.num_inference_steps, self.trained_steps, self.closeness = num_inference_steps, trained_steps, closeness
        self.realism = realism
        self.guidance = {"guidance_scale": guidance_scale, "guidance_start": guidance_start, "guidance_end": guidance_end}
        self._beside = [reference.requires_grad_(False).eval(), reward]  # in a list, so that they are no part of this module
        self.decoder = Decoder(**reference.options)
        self.decoder.load_state_dict(reference.state_dict())
        self.critic = critic

    @property
    def reference(self):
        return self._beside[0]

    @property
    def reward(self):
        return self._beside[1]

    @property
    def drawing(self):
        """How pictures are drawn, as `Decoder.sample` takes it."""
        return {"num_inference_steps": self.num_inference_steps, "sampler": "dpm++", **self.guidance}

    def loss(self, batch, generator=None):
        """Less the reward, of each picture (B,), with `closeness` times the distance where gradients are wanted; None.

        batch: image_embed (B, D), from which pictures are drawn; label (B,), which the reward is told; for the critic, image
            uint8 (B, 3, S, S), photographs of these labels.
        """
        embed, labels = batch["image_embed"].to(self.decoder.device), batch["label"].to(self.decoder.device)
        pictures, path = self.drawn(embed, generator)
        if not torch.is_grad_enabled():
            return -self.reward(pictures, labels, generator), None
        pictures.requires_grad_()
        loss = -self.reward(pictures, labels, generator)                                                     # (B,)
        if self.critic is not None:
            loss = loss - self.realism * self.critic(pictures, labels, generator)
        uphill = torch.autograd.grad(loss.sum(), pictures)[0]                                          # (B, 3, S, S)
        towards, distance = self.taught(embed, path, uphill, self.drawn_places())
        loss = loss.detach() + towards - towards.detach() + self.closeness * distance
        if self.critic is not None:
            photographs = to_float(batch["image"].to(pictures.device))
            loss = loss + self.critic.loss(pictures.detach(), photographs, labels, generator)
        return loss, None

    def drawn(self, embed, generator=None):
        """(pictures (B, 3, S, S), what each of the n steps was given, n times (B, 3, S, S))."""
        path = []
        seeds = torch.randint(2**31, (len(embed),), generator=generator).tolist()
        pictures = self.decoder.sample(
            embed, noise=SeededNoise(seeds), callback=lambda i, n, x_t, prediction: path.append(x_t), **self.drawing
        )
        return pictures, path

    def drawn_places(self):
        """Which of the steps learn now: a list of numbers from 0 on, in order."""
        share = (torch.arange(self.trained_steps) + torch.rand(self.trained_steps)) / self.trained_steps     # in 0..1
        return (share * self.num_inference_steps).long().clamp(max=self.num_inference_steps - 1).tolist()

    def taught(self, embed, path, uphill, places):
        """Of each picture, (what has the gradient `uphill` (B, 3, S, S) at the picture, as the steps at `places` have it,
        scaled as if all steps had been asked (B,); the squared distance to the reference's v-hat there (B,))."""
        schedule, every = self.decoder.schedule, len(places)
        times = self.decoder.timesteps(self.num_inference_steps)                                             # (n,)
        phi = schedule.alpha_bar_at(torch.cat([times, torch.tensor([-1])])).sqrt().acos()                    # (n + 1,)
        delta = phi[:-1] - phi[1:]                                                                           # (n,)
        after = torch.cat([delta.cos().flip(0).cumprod(0).flip(0)[1:], delta.new_ones(1)])                   # (n,)
        scale = torch.where(within(times, schedule, *self.interval), self.guidance["guidance_scale"], 1.0)
        weight = (-delta.sin() * after * scale * len(times) / every)[places].to(uphill)                      # (K,)
        x_t = torch.cat([path[k] for k in places])                                                           # (KB, 3, S, S)
        t = times[places].repeat_interleave(len(embed)).to(embed.device)
        told = embed.repeat(every, 1)
        v = self.decoder.denoiser.output(x_t, t, **self.decoder.read(told))[0]
        with torch.no_grad():
            known = self.reference.denoiser.output(x_t, t, **self.reference.read(told))[0]
        along = (uphill.repeat(every, 1, 1, 1) * v).flatten(1).sum(1).unflatten(0, (every, -1))              # (K, B)
        distance = (v - known).square().flatten(1).sum(1).unflatten(0, (every, -1))
        return (weight[:, None] * along).sum(0), distance.mean(0)

    @property
    def interval(self):
        return self.guidance["guidance_start"], self.guidance["guidance_end"]

"""A decoder that learns to tell photographs from what it draws: direct discriminative optimisation.

Zheng et al. 2025, "Direct Discriminative Optimization: Your Likelihood-Based Visual Generative Model is Secretly a GAN
Discriminator". A trained decoder p_ref is frozen, and a copy p of it learns on; the ratio of their likelihoods is a
discriminator, and the loss a GAN's: of a photograph x and of a picture x' that p_ref drew,

    L = -log sigmoid(log p(x) / p_ref(x)) - log sigmoid(-log p(x') / p_ref(x')).

Its optimum is that of a GAN's generator, the distribution of photographs, but no other network is trained. The ratio is that
of the likelihoods' bounds, at one timestep and noise for both pictures (as Wallace et al. 2024, "Diffusion Model Alignment
Using Direct Preference Optimization", eq. 14, have it):

    log p(x) / p_ref(x) ~ scale (|error of p_ref at x_t|^2 - |error of p at x_t|^2).

A step costs, for a pair, 2.7 times what plain training costs for a picture: forward and backward on both pictures, and a
forward of the reference on both.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .conditioning import drawn, rows
from .data.images import to_float
from .decoder import Decoder
from .diffusion import draw_timesteps, noise_like, training_loss
from .errors import UserError


class Refinement(nn.Module):
    """A decoder, which begins with the reference's weights, and its loss. Only the decoder is trained, averaged and saved.

    Args:
        reference: the Decoder that drew the pictures. It is frozen. Its device is the caller's to choose; the decoder's is this
            module's.
        scale: on the difference of the squared errors, summed over a picture's pixels: the larger, the sooner a picture that
            is told apart teaches nothing more.

    Raises:
        UserError: a reference that reads captions (which are drawn anew in every epoch, so the drawn picture would have
            another than the photograph beside it), or one that was distilled.
    """

    exported_prefix = "decoder."
    edge_layers = tuple("decoder." + name for name in Decoder.edge_layers)

    def __init__(self, reference: Decoder, *, scale: float = 0.2):
        super().__init__()
        if reference.text_to_tokens is not None:
            raise UserError("this decoder reads captions: refine one that reads image embeddings alone")
        if reference.step_counts:
            raise UserError("this decoder was distilled: refine its teacher, and distil that")
        self.scale = scale
        self._reference = [reference.requires_grad_(False).eval()]  # in a list, so that it is no part of this module
        self.decoder = Decoder(**reference.options)
        self.decoder.load_state_dict(reference.state_dict())

    @property
    def reference(self):
        return self._reference[0]

    def loss(self, batch, generator=None):
        """L of each pair (B,), and t / T (B,); 2 log 2 = 1.386 where nothing is told apart.

        batch: image uint8 (B, 3, S, S), photographs; drawn uint8 (B, 3, S, S), what the reference drew from the same
            embeddings; image_embed (B, D). An embedding is dropped for both, as often as in plain training.
        """
        decoder, pairs = self.decoder, len(batch["image"])
        pictures = to_float(torch.cat([batch["image"], batch["drawn"]]).to(decoder.device))            # (2B, 3, S, S)
        t = draw_timesteps(pairs, decoder.schedule.num_timesteps, generator, decoder.device)
        eps = noise_like(pictures[:pairs], generator)
        embed = batch["image_embed"].to(pictures)
        dropped = drawn(decoder.image_drop, pairs, generator, decoder.device)

        def errors(of):
            told = torch.where(rows(dropped, embed), of.null_image.to(embed), embed)                   # (B, D)
            cond = of.read(told.repeat(2, 1))
            mean = training_loss(of.denoiser, pictures, t.repeat(2), eps.repeat(2, 1, 1, 1), **cond)   # (2B,)
            return mean * pictures[0].numel()

        with torch.no_grad():
            known = errors(self.reference)
        real, made_up = (self.scale * (known - errors(decoder))).chunk(2)                              # (B,) each
        return F.softplus(-real) + F.softplus(made_up), t / decoder.schedule.num_timesteps

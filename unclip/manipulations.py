"""Image manipulations (Ramesh et al. 2022, section 3): what can be done to pictures by way of CLIP's latents.

A picture is a pair here: its CLIP image embedding z, which says what it shows, and x_T, found by DDIM inversion, which
says the rest (section 3: "a bipartite latent representation"). Pictures are PIL images of any size and mode; they are
cropped to the centre square.

Captions: a decoder that reads them is given the prompt where there is one, and else the empty caption: so the ends of a
blend are what such a decoder makes of the embedding alone. An inversion is not led away from a negative prompt.
"""

import torch

from .data.images import square, to_float, to_pil, to_rgb, to_uint8
from .diffusion import SeededNoise
from .errors import UserError
from .latents import mixture, nearest, projected, slerp, text_diff
from .progress import Progress
from .prompts import checked, parsed, plain
from .seeds import one_seed, seeds_from
from .stage import Start

INVERSION_STEPS = 30  # at least, where no number is given: the more, the nearer is what comes back


class Manipulations:
    """Methods of `UnCLIP`. Those that draw take its `Settings` by name, and give lists of PIL images where they do not say
    otherwise.

    What they share: seed: as in `UnCLIP.__call__`, one for all frames of a way; callback: called in every step with a
    `Step`, of the stage "inversion" too; batch_size: how many pictures are drawn at once. They raise UserError for numbers
    out of range.
    """

    def vary(self, image, *, num_images=4, seed=0, fidelity=0.0, batch_size=16, callback=None, **settings):
        """Other pictures of what a picture shows (section 3.1).

        fidelity: from 0, the same idea in a new layout, to 1, the picture itself as well as the decoder can draw it. In
            between, the inversion goes the share 1 - fidelity / 2 of the way to noise, and the way back is drawn with
            eta = 1 - fidelity, by the upsamplers too.
        """
        check_within("fidelity", fidelity)
        seeds, embed, start = seeds_from(seed, num_images), self.look([image]), None
        settings = self.deterministic(settings, f"fidelity {fidelity}") if fidelity else self.settings(**settings)
        if fidelity:
            strength = 1 - fidelity / 2
            start = Start(x_t=self.invert(image, embed, settings, strength, callback), strength=strength)
            settings = settings.model_copy(update={"eta": 1 - fidelity})
        return self.from_embeddings(embed.expand(num_images, -1), seeds, settings, start, batch_size, callback)

    def blend(self, items, *, num_frames=7, seed=0, batch_size=16, callback=None, **settings):
        """A way from one picture or prompt to the next, in equal steps (section 3.2): both z and x_T are interpolated.

        items: two or more, each a PIL image or a prompt; the frames lead from the first to the last.
        """
        settings = self.deterministic(settings, "a blend")
        if len(items) < 2 or num_frames < 2:
            raise UserError(f"a blend of {len(items)} in {num_frames} frames: both must be at least 2")
        seed = one_seed(seed)
        places = [self.place(item, seed, settings, callback) for item in items]
        frames = []
        for share in torch.linspace(0, len(items) - 1, num_frames, dtype=torch.float64).tolist():
            k = min(int(share), len(items) - 2)
            frames.append([slerp(a, b, share - k) for a, b in zip(places[k], places[k + 1])])
        embeds, x_T = (torch.cat(each) for each in zip(*frames))
        return self.from_embeddings(embeds, [seed] * num_frames, settings, Start(x_t=x_T), batch_size, callback)

    def mix(self, items, weights, *, num_images=4, seed=0, batch_size=16, callback=None, **settings):
        """Pictures of two or more things in one: of the weighted mean of their embeddings, each drawn from new noise.

        items: as for `blend`; weights: a number for each.
        """
        settings, seeds = self.settings(**settings), seeds_from(seed, num_images)
        if len(items) < 2 or len(weights) != len(items):
            raise UserError(f"{len(weights)} weights for {len(items)} pictures and prompts: give one for each of two or more")
        embeds = torch.cat([self.embedding(item, seeds[0], settings, callback) for item in items])
        try:
            embed = mixture(embeds, weights)
        except ValueError as error:
            raise UserError(str(error)) from None
        return self.from_embeddings(embed.expand(num_images, -1), seeds, settings, None, batch_size, callback)

    def edit(
        self, image, caption, *, base="a photo", strength=0.4, num_frames=5, seed=0, batch_size=16, callback=None, **settings
    ):  # fmt: skip
        """A picture led from one caption towards another, further from frame to frame (section 3.3, "text diffs").

        caption: what it is to become; base: what it is, or "a photo".
        strength: how far the last frame goes, as a share of the way to the direction between the captions; the paper's
            lie between 0.25 and 0.5. The first frame is the picture as the decoder draws it.
        """
        settings = self.deterministic(settings, "an edit")
        check_within("strength", strength)
        seed, (caption, base) = one_seed(seed), checked([caption, base])
        caption, base = plain(caption, "the caption"), plain(base, "the caption")
        if num_frames < 2:
            raise UserError(f"{num_frames} frames: an edit has at least 2")
        embed, x_T = self.place(image, seed, settings, callback)
        towards, away = self.texts([caption, base]).text["text_embed"].float().cpu()[:, None]
        try:
            direction = text_diff(embed, towards, away)
        except ValueError:
            raise UserError(f"{caption!r} and {base!r} mean the same to this model: choose other captions") from None
        embeds = torch.cat([slerp(embed, direction, strength * k / (num_frames - 1)) for k in range(num_frames)])
        return self.from_embeddings(embeds, [seed] * num_frames, settings, Start(x_t=x_T), batch_size, callback)

    def redraw(
        self, image, prompt="", *, strength=0.6, num_images=4, seed=0, batch_size=16, callback=None, **settings
    ):  # fmt: skip
        """Image-to-image: a picture noised, and drawn from there to a prompt, in every stage (SDEdit, Meng et al. 2022).

        strength: above 0, how far it is noised; 1: nothing of it is left. prompt: "" draws what the picture shows.
        """
        settings, starts = self.settings(**settings), [Start(p, strength=strength) for p in self.at_stages(image, strength)]
        return self.towards(image, prompt, starts, num_images, seed, settings, batch_size, callback)

    def inpaint(
        self, image, mask, prompt="", *, rounds=3, num_images=4, seed=0, batch_size=16, callback=None, **settings
    ):  # fmt: skip
        """What a mask marks is drawn anew to a prompt, the rest is kept, in every stage.

        mask: a PIL image of the picture's size, white where to draw. prompt: what the whole picture is to show; "": what
            the picture shows. rounds: how often the decoder goes over it, see `Start`.
        """
        settings = self.settings(**settings)
        if rounds < 1:
            raise UserError(f"{rounds} rounds: at least 1")
        mask = checked_mask(mask, image, self.decoder.image_size)
        starts = [
            Start(picture, mask=mask_at(mask, picture.shape[-1]), rounds=1 if k else rounds)
            for k, picture in enumerate(self.at_stages(image))
        ]
        return self.towards(image, prompt, starts, num_images, seed, settings, batch_size, callback)

    def components(self, image, directions, counts, *, seed=0, batch_size=16, callback=None, **settings):
        """A picture drawn from fewer and from more principal components of its embedding (the paper's figure 7).

        directions: (mean, directions) as from `latents.principal_components`; counts: how many of them a frame has. All
            frames have the same noise.
        """
        settings, seed = self.settings(**settings), one_seed(seed)
        mean, axes = directions
        if not counts or not 1 <= min(counts) <= max(counts) <= len(axes):
            raise UserError(f"{counts or 'no'} components: choose 1 to {len(axes)}, as many as the pictures tell apart")
        embed = self.look([image])
        embeds = torch.cat([projected(embed, mean, axes[:count]) for count in counts])
        return self.from_embeddings(embeds, [seed] * len(counts), settings, None, batch_size, callback)

    def spread(self, prompt, *, num_images=8, seed=0, batch_size=16, callback=None, **settings):
        """What a prompt leaves open: (embeddings (N, D) that the prior draws for it, N pictures of them from one noise, N
        pictures of the first from their own noises)."""
        settings, seeds = self.settings(**settings), seeds_from(seed, num_images)
        prompt = parsed(*checked(prompt))
        size = max(1, batch_size)  # one that is none is refused below
        batches = [seeds[k : k + size] for k in range(0, num_images, size)]
        embeds = torch.cat([self.drawn_for(prompt, batch, settings, callback) for batch in batches])
        both, seeds = torch.cat([embeds, embeds[:1].expand(num_images, -1)]), [seeds[0]] * num_images + list(seeds)
        images = self.from_embeddings(both, seeds, settings, None, batch_size, callback, prompt)
        return embeds, images[:num_images], images[num_images:]

    def neighbours(self, item, embeds, *, count=8, seed=0, callback=None, **settings):
        """Which of the embeddings (N, D) are nearest to a PIL image's, or to what the prior draws for a prompt: their rows
        and their cosines, best first."""
        if count < 1:
            raise UserError(f"{count} neighbours: ask for at least 1")
        return nearest(self.embedding(item, one_seed(seed), self.settings(**settings), callback)[0], embeds, count)

    # ---- what they are made of ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def look(self, images):
        """CLIP's image embeddings of PIL images: float (B, D) on the CPU."""
        with self.running(self.clip):
            return self.clip.encode_image(images).float().cpu()

    def embedding(self, item, seed, settings, callback=None):
        """The image embedding (1, D) of a PIL image, or what the prior draws for a prompt."""
        return self.drawn_for(parsed(*checked(item)), [seed], settings, callback) if isinstance(item, str) else self.look([item])

    def drawn_for(self, prompt, seeds, settings, callback=None):
        """The image embeddings (N, D) that the prior draws for a prompt (a string or Composition) with N seeds."""
        step = Progress(callback, 0).of(range(len(seeds)))("prior")
        return self.image_embeddings(self.texts([prompt] * len(seeds)), seeds, settings, callback=step).float().cpu()

    def place(self, item, seed, settings, callback=None):
        """z (1, D) and x_T (1, 3, S, S) of a picture, or those that are drawn for a prompt."""
        embed = self.embedding(item, seed, settings, callback)
        if isinstance(item, str):
            return embed, SeededNoise([2 * seed + 1])((1, 3, self.decoder.image_size, self.decoder.image_size))
        return embed, self.invert(item, embed, settings, 1.0, callback)

    def invert(self, image, embed, settings, strength, callback=None):
        """The x_t (1, 3, S, S) from which the decoder draws a PIL image, nearly, given its embedding (1, D)."""
        texts = self.texts([""])
        with self.running(self.decoder):
            return self.decoder.invert(
                pixels(image, self.decoder.image_size),
                embed,
                texts.text,
                texts.null,
                num_inference_steps=settings.num_inference_steps,
                guidance_scale=settings.guidance_scale,
                guidance_start=settings.guidance_start,
                guidance_end=settings.guidance_end,
                strength=strength,
                callback=Progress(callback, 0).of(range(1))("inversion"),
            ).cpu()

    def at_stages(self, image, strength=1.0):
        """A PIL image at the size of each stage: float (1, 3, S, S)."""
        if not 0 < strength <= 1:
            raise UserError(f"strength {strength}: choose above 0, and 1 at most")
        return [pixels(image, stage.image_size) for stage in (self.decoder, *self.upsamplers)]

    def towards(self, image, prompt, starts, num_images, seed, settings, batch_size, callback):
        """Pictures from starts, to a prompt or, where it is "", to what a picture shows."""
        seeds = seeds_from(seed, num_images)
        embed = None if prompt.strip() else self.look([image]).expand(num_images, -1)
        prompt = parsed(*checked(prompt)) if prompt.strip() else ""
        jobs = [(prompt, s) for s in seeds]
        return to_pil(
            self.sample_each(jobs, settings, image_embed=embed, starts=starts, batch_size=batch_size, callback=callback)
        )

    def from_embeddings(self, embeds, seeds, settings, start, batch_size, callback, prompt=""):
        """A picture for each of N embeddings (N, D) and seeds; start: the decoder's, or None; prompt: of all."""
        jobs, starts = [(prompt, s) for s in seeds], [start, *[None] * len(self.upsamplers)]
        return to_pil(
            self.sample_each(jobs, settings, image_embed=embeds, starts=starts, batch_size=batch_size, callback=callback)
        )

    def deterministic(self, given, what):
        """The settings given by name, where not given with the sampler that an inversion undoes, and enough steps for it, or
        the most that a distilled decoder has.

        Raises:
            UserError: another sampler is given, or an eta.
        """
        steps = min(max(INVERSION_STEPS, self.defaults.num_inference_steps), self.decoder.schedule.num_timesteps)
        steps = max(self.decoder.step_counts or [steps])
        ours = {"sampler": "ddim", "num_inference_steps": steps, "eta": 0.0}
        settings = self.settings(**{**ours, **{key: value for key, value in given.items() if value is not None}})
        if settings.sampler != "ddim":
            raise UserError(f"{what} asks for the sampler ddim, not {settings.sampler}")
        if settings.eta:
            raise UserError(f"{what} is drawn without eta, which would lead away from what the inversion found: leave it out")
        return settings


def pixels(image, side):
    """A PIL image of any size and mode -> float (1, 3, side, side) in [-1, 1], the centre square."""
    return to_float(to_uint8(square(to_rgb(image), side))[None])


def checked_mask(mask, image, side):
    """A mask as a PIL image in mode L, black and white; what is transparent in it is black.

    Raises:
        UserError: another size than the picture's, or nothing white in the centre square, at the decoder's side.
    """
    size = to_rgb(image).size
    mask = to_rgb(mask, "black").convert("L").point(lambda value: 255 * (value > 127))
    if mask.size != size:
        (a, b), (c, d) = mask.size, size
        raise UserError(f"the mask is {a}x{b}, the picture {c}x{d}: make them one size")
    if mask_at(mask, side).max() == 0:
        raise UserError("the mask is black all over, in the centre square: paint white what is to be drawn")
    return mask


def mask_at(mask, side):
    """A mask in mode L -> float (1, 1, side, side) in 0..1, the centre square."""
    return (pixels(mask, side)[:, :1] + 1) / 2


def check_within(name, value):
    if not 0 <= value <= 1:
        raise UserError(f"{name} {value}: choose 0 to 1")

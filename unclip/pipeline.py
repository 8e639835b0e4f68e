"""UnCLIP: prompt -> pictures. Owns the parts and runs them in a row (Ramesh et al. 2022, figure 2)."""

import contextlib
import random
from typing import NamedTuple, Optional

import torch
from pydantic import Field, field_validator

from .config import Strict, check
from .data.images import to_pil
from .data.texts import mean_texts
from .decoder import Decoder
from .diffusion import SAMPLERS, SeededNoise
from .errors import UserError, nearest
from .hub import load_clip, model_folder
from .manipulations import Manipulations
from .model_index import INDEX, read_classes, read_index, read_vocabulary, upsampler_folders
from .prior import DiffusionPrior, margins
from .progress import Progress
from .prompts import Composition, checked, notes, parsed, plain
from .rivals import Rivals
from .seeds import seeds_from, seeds_of_draws
from .upsampler import Upsampler


# settings of upsamplers that say how far what they are given is spoilt, and for how much of it each was trained
SPOILS = {"upsampler_noise_level": "max_noise", "upsampler_grain": "max_noise", "upsampler_blur": "max_blur"}


class Settings(Strict):
    """How pictures are drawn. The values here hold where a model's index names no others.

    num_inference_steps, guidance_scale: of the decoder, which is guided from guidance_start to guidance_end, shares of the
    way from noise (0) to picture (1); sampler: of decoder and upsamplers; eta: of the sampler ddim.
    num_samples: how many pictures the decoder draws for each that is wanted of a prompt alone, each of an embedding of its own;
    the one is kept that CLIP finds nearest to the text, or with the largest margin, as below. The others are not enlarged.
    negative_prompt: what guidance leads away from, in the place of the empty caption. prior_...: of the prior;
    prior_num_samples: how many embeddings it draws a picture, of which the one nearest to the text is kept, or, for a prompt that
    names a class of the model, the one with the largest margin to the other classes.
    upsampler_...: of every upsampler; the number of steps and the grain may be lists, a number for each, whose last holds for
    those after it; upsampler_sampler: None: `sampler`; noise_level, grain, blur: see `Upsampler.sample`; one that was trained
    for less takes what it was trained for. stop_after: the stage whose pictures are wanted, "base" (the decoder),
    "upsampler-1", ...; None: the last.
    """

    num_inference_steps: int = Field(50, ge=1)
    guidance_scale: float = Field(2.0, allow_inf_nan=False)
    guidance_start: float = Field(0.0, ge=0, le=1)
    guidance_end: float = Field(1.0, ge=0, le=1)
    num_samples: int = Field(1, ge=1, le=1000)
    prior_num_inference_steps: int = Field(25, ge=1)
    prior_guidance_scale: float = Field(1.0, allow_inf_nan=False)
    prior_num_samples: int = Field(2, ge=1, le=1000)
    prior_sampler: str = "ddpm"
    sampler: str = "ddim"
    eta: float = Field(0.0, ge=0, le=1)
    negative_prompt: str = ""
    upsampler_num_inference_steps: int | list[int] = 10
    upsampler_sampler: Optional[str] = None
    upsampler_noise_level: float = Field(0.0, ge=0, lt=1)
    upsampler_grain: float | list[float] = 0.0
    upsampler_blur: float = Field(0.0, ge=0)
    stop_after: Optional[str] = None

    @field_validator("upsampler_num_inference_steps")
    @classmethod
    def check_steps(cls, steps):
        if min(listed(steps), default=0) < 1:
            raise ValueError(f"upsampler_num_inference_steps = {steps}: at least 1 step")
        return steps

    @field_validator("upsampler_grain")
    @classmethod
    def check_grain(cls, grain):
        if not listed(grain) or not all(0 <= value < 1 for value in listed(grain)):
            raise ValueError(f"upsampler_grain = {grain}: from 0 to below 1")
        return grain

    def upsampler_steps(self, number):
        """The steps of the upsampler of that number, from 0."""
        return one_of(self.upsampler_num_inference_steps, number)


def listed(value):
    """A value, or a list of several, as a list."""
    return value if isinstance(value, list) else [value]


def one_of(value, number):
    """What a value, or a list whose last holds for those after it, is for the upsampler of that number, from 0."""
    values = listed(value)
    return values[min(number, len(values) - 1)]


class Texts(NamedTuple):
    """B prompts, strings, and as CLIP reads them, in text keys. text: (B, ...), whole; null: (1, ...), of the empty caption or
    the negative prompt; parts: of each of K parts, (B, ...), where prompts have weights, and weights: (K, B), 0 for a part
    that a prompt lacks."""

    prompts: tuple
    text: dict
    null: dict
    parts: tuple = ()
    weights: Optional[torch.Tensor] = None


class UnCLIP(Manipulations):
    """A text-to-image model.

        model = UnCLIP.from_pretrained("pocket")
        images = model("a photo of a dog", num_images=4, seed=0)     # four PIL images

    Args:
        clip: a FrozenCLIP; prior: a DiffusionPrior; decoder: a Decoder; upsamplers: Upsamplers, in the order in which
            they enlarge. Each may be on a device of its own.
        defaults: Settings; vocabulary: the words of the training captions, if known; classes: the ClassCaptions of
            the training, if there are.
        runs_on: a device to which each part goes for as long as it runs, and leaves then for the CPU; None: every part
            runs where it is, which may be a device of its own.

    Raises:
        UserError: an upsampler that does not take what the stage before it draws, or embeddings of another CLIP.
    """

    def __init__(self, clip, prior, decoder, defaults, vocabulary=frozenset(), upsamplers=(), runs_on=None, classes=None):
        self.clip, self.prior, self.decoder, self.upsamplers = clip, prior, decoder, list(upsamplers)
        self.runs_on = runs_on
        self.defaults, self.vocabulary = defaults, vocabulary
        self.rivals = None if classes is None else Rivals(classes, self.directions)
        side = decoder.image_size
        for k, upsampler in enumerate(self.upsamplers, 1):
            takes = upsampler.image_size // upsampler.scale
            if takes != side:
                raise UserError(f"upsampler-{k} takes pictures of {takes}x{takes}, the stage before it draws {side}x{side}")
            if upsampler.image_to_time is not None and upsampler.image_to_time.in_features != prior.embed_dim:
                raise UserError(f"upsampler-{k} and the prior were trained for different CLIPs: copy or train them again")
            side = upsampler.image_size

    @property
    def stages(self):
        """The names of what draws pictures: "base", "upsampler-1", ..."""
        return ["base", *(f"upsampler-{k}" for k in range(1, len(self.upsamplers) + 1))]

    @classmethod
    def from_pretrained(cls, name="pocket", *, device="cpu", dtype=torch.float32, offload=False):
        """Load a model: "pocket", a folder, or a hub id. `dtype` is that of all parts but CLIP, which stays in float32.

        offload: keep the parts on the CPU, and on `device` none but the one that runs: slower, for models that are larger
            than the device's memory.

        Raises:
            UserError: no such model, or an unfinished or damaged one.
        """
        folder = model_folder(name)
        defaults = check(Settings, read_index(folder)["defaults"], folder / INDEX)
        runs_on, at = (device, "cpu") if offload else (None, device)
        clip = load_clip(folder, at)
        prior = DiffusionPrior.from_pretrained(folder / "prior", at, dtype)
        decoder, *upsamplers = [
            kind.from_pretrained(each, at, dtype).to(memory_format=torch.channels_last)
            for kind, each in [(Decoder, folder / "decoder"), *((Upsampler, each) for each in upsampler_folders(folder))]
        ]
        text = clip.encode_text([""])
        takes = prior.transformer.text_embed_dim, (prior.transformer.text_length, prior.transformer.text_dim)
        if takes != (text.embed.shape[1], tuple(text.states.shape[1:])):
            raise UserError(f"the prior of {folder} reads another CLIP than its {folder / INDEX} names: copy or train it again")
        if prior.embed_dim != len(decoder.null_image):
            raise UserError(f"prior and decoder of {folder} were trained for different CLIPs: copy or train them again")
        return cls(clip, prior, decoder, defaults, read_vocabulary(folder), upsamplers, runs_on, read_classes(folder))

    @contextlib.contextmanager
    def running(self, part):
        """While it lasts, a part is where it runs."""
        if self.runs_on is not None:
            part.to(self.runs_on)
        try:
            yield part
        finally:
            if self.runs_on is not None:
                part.to("cpu")

    def __call__(self, prompts, *, num_images=1, seed=0, batch_size=16, callback=None, **settings):
        """Draw `num_images` pictures a prompt: a list of PIL images, all of the first prompt first.

        Args:
            prompts: a string or several; they may have weights, see `prompts.parsed`.
            seed: picture k of every prompt is drawn with seed + k, or with the k-th of a list of num_images seeds; same
                seed, same picture, whatever the batch.
            batch_size: how many are drawn at once.
            callback: called in every step with a `Step`; what it raises ends the drawing.
            settings: fields of `Settings` that differ from the model's defaults.

        Raises:
            UserError: an empty prompt, a weight in it that is none, or a setting out of range.
        """
        settings = self.settings(**settings)
        return to_pil(self.sample(prompts, num_images, seed, settings, batch_size=batch_size, callback=callback))

    def settings(self, **changes):
        """The model's default settings with changes; None leaves the default.

        Raises:
            UserError: an unknown setting, or one out of range.
        """
        given = {k: v for k, v in changes.items() if v is not None}
        chosen = check(Settings, {**self.defaults.model_dump(), **given}, "settings")
        if chosen.stop_after is not None and chosen.stop_after not in self.stages:
            raise UserError(f"this model has no stage {chosen.stop_after!r}: choose {', '.join(self.stages)}")
        for name in given if not self.upsamplers else ():
            if name.startswith("upsampler_"):
                raise UserError(f"{name}: this model has no upsampler: leave it out")
        steps_of = [(chosen.num_inference_steps, self.decoder), (chosen.prior_num_inference_steps, self.prior)]
        steps_of += [(chosen.upsampler_steps(k), upsampler) for k, upsampler in enumerate(self.upsamplers)]
        for steps, part in steps_of:
            if steps > part.schedule.num_timesteps:
                raise UserError(f"{steps} steps: choose 1 to {part.schedule.num_timesteps}")
        if self.decoder.step_counts:
            self.decoder.check_steps(chosen.num_inference_steps)
            if chosen.sampler != "ddim":
                raise UserError(f"sampler {chosen.sampler}: this decoder was distilled for ddim: leave it out")
        for strength, trained in SPOILS.items():
            most = max((getattr(upsampler, trained) for upsampler in self.upsamplers), default=0.0)
            if self.upsamplers and max(listed(getattr(chosen, strength))) > most:
                raise UserError(f"{strength}: choose 0 to {most}, for which the upsamplers were trained")
        if chosen.guidance_start > chosen.guidance_end:
            raise UserError(f"guidance_start {chosen.guidance_start} lies after guidance_end {chosen.guidance_end}: swap them")
        if chosen.eta and chosen.sampler != "ddim":
            raise UserError(f"eta {chosen.eta}: only the sampler ddim has it, not {chosen.sampler}")
        plain(chosen.negative_prompt, "the negative prompt")
        for sampler in (chosen.sampler, chosen.prior_sampler, chosen.upsampler_sampler or chosen.sampler):
            if sampler not in SAMPLERS:
                raise UserError(f"no sampler {sampler!r}{nearest(sampler, SAMPLERS)}: {', '.join(SAMPLERS)}")
        return chosen

    def used(self, settings):
        """The settings that this model reads, as a dict."""
        of_upsamplers = settings.stop_after != "base" and bool(self.upsamplers)
        return {k: v for k, v in settings.model_dump().items() if of_upsamplers or not k.startswith("upsampler_")}

    def side(self, settings):
        """Width and height of the pictures that these settings give."""
        return [self.decoder, *self.upsamplers][self.stages.index(settings.stop_after or self.stages[-1])].image_size

    @torch.no_grad()
    def sample(self, prompts, num_images, seed, settings, *, batch_size=16, callback=None):
        """As `__call__`, with a `Settings`, but float (N, 3, S, S) in [-1, 1] on the CPU."""
        prompts = [parsed(prompt) for prompt in checked(prompts)]
        jobs = [(prompt, s) for prompt in prompts for s in seeds_from(seed, num_images)]
        return self.sample_each(jobs, settings, batch_size=batch_size, callback=callback)

    @torch.no_grad()
    def sample_each(self, jobs, settings, *, image_embed=None, starts=None, batch_size=16, callback=None):
        """A picture for each of N pairs of a prompt (a string, taken as it is, or a Composition) and a seed; see `sample`.

        image_embed: (N, D) to draw from, in place of what the prior draws for the prompts; starts: a Start or None for
        each stage, of N or 1 pictures.
        """
        if batch_size < 1:
            raise UserError(f"batches of {batch_size}: at least 1")
        upsamplers = self.upsamplers[: self.stages.index(settings.stop_after or self.stages[-1])]
        base, *larger = starts or [None] * len(self.stages)
        negative = plain(settings.negative_prompt.strip(), "the negative prompt")
        decoder_guides = settings.guidance_scale != 1
        if negative and not (decoder_guides or (image_embed is None and settings.prior_guidance_scale != 1)):
            raise UserError("a negative prompt does nothing without guidance: raise guidance_scale above 1")
        number = settings.num_samples if image_embed is None and base is None else 1
        steps = self.decoder.num_steps(settings.num_inference_steps, base)
        steps += settings.prior_num_inference_steps * ((image_embed is None) + bool(negative and decoder_guides))
        steps *= number
        steps += sum(u.num_steps(settings.upsampler_steps(k), s) for k, (u, s) in enumerate(zip(upsamplers, larger)))
        progress = Progress(callback, len(jobs) * steps)
        images = []
        for first in range(0, len(jobs), batch_size):
            prompts, seeds = zip(*jobs[first : first + batch_size])
            last = first + len(seeds)
            report = progress.of(range(first, last))
            texts = self.texts(prompts, negative)
            away = self.texts([negative] * len(seeds)) if negative and decoder_guides else None
            given = None if image_embed is None else image_embed[first:last]
            start = base and base.rows(first, last)
            draws = (
                self.embedded_and_decoded(given, texts, away, own, settings, start=start, report=report)
                for own in seeds_of_draws(seeds, number)
            )
            embeds, drawn = next(draws) if number == 1 else self.kept(draws, texts)
            for k, (upsampler, start) in enumerate(zip(upsamplers, larger)):
                noise = SeededNoise([random.Random(f"upsampler {k} of {s}").getrandbits(32) for s in seeds])
                start = start and start.rows(first, last)
                callback_of = report(self.stages[k + 1])
                drawn = self.enlarge(upsampler, drawn, embeds, noise, settings, start, callback=callback_of)
            images.append(drawn.cpu())
        return torch.cat(images)

    def texts(self, prompts, negative=""):
        """B prompts, strings or Compositions, and what guidance leads away from, as `Texts`; equal ones are encoded once."""
        composed = any(isinstance(prompt, Composition) for prompt in prompts)
        of = [p if isinstance(p, Composition) else Composition((p,), (1.0,)) for p in prompts] if composed else []
        distinct = list(dict.fromkeys([*map(str, prompts), *(part for p in of for part in p.parts)]))
        with self.running(self.clip):
            encoded = self.clip.encode_text([*distinct, negative]).batch()

        def rows(captions):
            chosen = torch.tensor([distinct.index(c) for c in captions])
            return {k: v[chosen] for k, v in encoded.items()}

        whole = tuple(map(str, prompts))
        text, null = rows(whole), {k: v[-1:] for k, v in encoded.items()}
        if not composed:
            return Texts(whole, text, null)
        most = range(max(len(p.parts) for p in of))
        parts = tuple(rows(p.parts[min(k, len(p.parts) - 1)] for p in of) for k in most)
        weights = torch.tensor([[p.weights[k] if k < len(p.parts) else 0.0 for p in of] for k in most])
        return Texts(whole, text, null, parts, weights)

    def directions(self, captions):
        """The text directions (N, D), of unit length, of N captions."""
        with self.running(self.clip):
            return mean_texts([[caption] for caption in captions], self.clip)

    def rivals_of(self, texts):
        """What the pictures of `Texts` could be mistaken for: see `Rivals.of`; (None, None) for a model without classes."""
        return (None, None) if self.rivals is None else self.rivals.of(texts.prompts)

    def embedded_and_decoded(self, image_embed, texts, away, seeds, settings, *, start, report):
        """Image embeddings (B, D), and the pictures (B, 3, S, S) that the decoder draws from them.

        image_embed: these; None: the prior draws them. away: `Texts` of what guidance leads away from, or None; start: a Start
        or None; report: from a stage's name to its callback.
        """
        null_embed = away and self.image_embeddings(away, seeds, settings, callback=report("prior"))
        if image_embed is None:
            image_embed = self.image_embeddings(texts, seeds, settings, callback=report("prior"))
        images = self.decode(image_embed, texts, seeds, settings, null_embed, start, callback=report("base"))
        return image_embed, images

    def kept(self, draws, texts):
        """Of n draws of B embeddings and pictures, those of each with the largest margin, in CLIP's eyes; see `prior.margins`."""
        embeds, images = (torch.stack(each, dim=1) for each in zip(*draws))                       # (B, n, D), (B, n, 3, S, S)
        with self.running(self.clip):
            seen = torch.stack([self.clip.encode_image(each).float() for each in images.unbind(1)], dim=1)    # (B, n, D)
        best = margins(seen, texts.text["text_embed"].float(), *self.rivals_of(texts)).argmax(dim=1)          # (B,)
        return tuple(each[torch.arange(len(best), device=each.device), best.to(each.device)] for each in (embeds, images))

    def image_embeddings(self, texts, seeds, settings, callback=None):
        """The image embeddings (B, D) that the prior draws for `Texts` of B prompts with B seeds.

        callback: see diffusion/samplers.py.
        """
        rivals = self.rivals_of(texts) if settings.prior_num_samples > 1 else (None, None)
        with self.running(self.prior):
            return self.prior.sample(
                texts.text,
                texts.null,
                texts.parts,
                texts.weights,
                *rivals,
                noise=SeededNoise([2 * s for s in seeds]),
                num_inference_steps=settings.prior_num_inference_steps,
                guidance_scale=settings.prior_guidance_scale,
                num_samples=settings.prior_num_samples,
                sampler=settings.prior_sampler,
                callback=callback,
            )

    def decode(self, embeds, texts, seeds, settings, null_embed=None, start=None, callback=None):
        """The pictures (B, 3, S, S) that the decoder draws for image embeddings (B, D); see `image_embeddings`.

        null_embed: (B, D), from which guidance leads away; start: a Start.
        """
        with self.running(self.decoder):
            return self.decoder.sample(
                embeds,
                texts.text,
                texts.null,
                noise=SeededNoise([2 * s + 1 for s in seeds]),
                num_inference_steps=settings.num_inference_steps,
                guidance_scale=settings.guidance_scale,
                guidance_start=settings.guidance_start,
                guidance_end=settings.guidance_end,
                sampler=settings.sampler,
                eta=settings.eta,
                null_embed=null_embed,
                start=start,
                callback=callback,
            )

    def enlarge(self, upsampler, images, embeds, noise, settings, start=None, callback=None):
        """What an upsampler makes of pictures (B, 3, s, s) with image embeddings (B, D) and a SeededNoise: (B, 3, S, S)."""
        number = self.upsamplers.index(upsampler)
        with self.running(upsampler):
            return upsampler.sample(
                images,
                embeds,
                noise=noise,
                num_inference_steps=settings.upsampler_steps(number),
                noise_level=min(settings.upsampler_noise_level, upsampler.max_noise),
                grain=min(one_of(settings.upsampler_grain, number), upsampler.max_noise),
                blur=min(settings.upsampler_blur, upsampler.max_blur),
                sampler=settings.upsampler_sampler or settings.sampler,
                eta=settings.eta,
                start=start,
                callback=callback,
            )

    def notes(self, prompt):
        """Lines about how this model will read a prompt: words it never saw, or a cut; see `prompts.notes`."""
        return notes(prompt, self.clip, self.vocabulary)

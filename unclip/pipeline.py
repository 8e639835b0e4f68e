"""UnCLIP: prompt -> pictures. Owns the parts and runs them in a row (Ramesh et al. 2022, figure 2)."""

from dataclasses import asdict, dataclass

import torch

from .data.images import to_pil
from .decoder import Decoder
from .diffusion import SAMPLERS, SeededNoise
from .errors import UserError, nearest
from .hub import load_clip, model_folder
from .model_index import read_index, read_vocabulary
from .prior import DiffusionPrior
from .prompts import checked, notes


@dataclass(frozen=True)
class Settings:
    """How pictures are drawn; what a model's index does not name has the defaults of `model_index.DEFAULTS`.

    num_inference_steps, guidance_scale, sampler: of the decoder. prior_...: of the prior, which samples by `ddpm`.
    """

    num_inference_steps: int
    guidance_scale: float
    prior_num_inference_steps: int
    prior_guidance_scale: float
    sampler: str

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise UserError(f"no sampler {self.sampler!r}{nearest(self.sampler, SAMPLERS)}: {', '.join(SAMPLERS)}")


class UnCLIP:
    """A text-to-image model.

        model = UnCLIP.from_pretrained("pocket")
        images = model("a photo of a dog", num_images=4, seed=0)     # four PIL images

    Args:
        clip: a FrozenCLIP; prior: a DiffusionPrior; decoder: a Decoder; all on one device.
        defaults: Settings; vocabulary: the words of the training captions, if known.
    """

    def __init__(self, clip, prior, decoder, defaults, vocabulary=frozenset()):
        self.clip, self.prior, self.decoder = clip, prior, decoder
        self.defaults, self.vocabulary = defaults, vocabulary

    @classmethod
    def from_pretrained(cls, name="pocket", *, device="cpu", dtype=torch.float32):
        """Load a model: "pocket", a folder, or a hub id.

        Raises:
            UserError: no such model, or an unfinished or damaged one.
        """
        folder = model_folder(name)
        index = read_index(folder)
        clip = load_clip(folder).to(device)
        prior = DiffusionPrior.from_pretrained(folder / "prior").to(device, dtype)
        decoder = Decoder.from_pretrained(folder / "decoder").to(device, dtype, memory_format=torch.channels_last)
        return cls(clip, prior, decoder, Settings(**index["defaults"]), read_vocabulary(folder))

    def __call__(self, prompts, *, num_images=1, seed=0, batch_size=16, callback=None, **settings):
        """Draw `num_images` pictures a prompt: a list of PIL images, all of the first prompt first.

        Args:
            prompts: a string or several.
            seed: picture k of every prompt is drawn with seed + k; same seed, same picture, whatever the batch.
            batch_size: how many are drawn at once.
            callback: called as (stage "prior" or "decoder", step, steps, pictures done, pictures in all).
            settings: fields of `Settings` that differ from the model's defaults.

        Raises:
            UserError: an empty prompt, or a setting out of range.
        """
        return to_pil(self.sample(prompts, num_images, seed, batch_size, callback, self.settings(**settings)))

    def settings(self, **changes):
        """The model's default settings with changes; None leaves the default.

        Raises:
            UserError: an unknown setting, or a number of steps that the schedule does not have.
        """
        unknown = [k for k in changes if k not in asdict(self.defaults)]
        if unknown:
            raise UserError(f"no setting {unknown[0]!r}{nearest(unknown[0], asdict(self.defaults))}")
        chosen = Settings(**{**asdict(self.defaults), **{k: v for k, v in changes.items() if v is not None}})
        for part, steps in ((self.decoder, chosen.num_inference_steps), (self.prior, chosen.prior_num_inference_steps)):
            if not 1 <= steps <= part.schedule.num_timesteps:
                raise UserError(f"{steps} steps: choose 1 to {part.schedule.num_timesteps}")
        return chosen

    def sample(self, prompts, num_images, seed, batch_size, callback, settings):
        """As `__call__`, but float (B, 3, S, S) in [-1, 1]."""
        prompts = checked(prompts)
        if num_images < 1:
            raise UserError(f"{num_images} images: ask for at least 1")
        jobs = [(prompt, seed + k) for prompt in prompts for k in range(num_images)]
        images = []
        for start in range(0, len(jobs), batch_size):
            part = jobs[start : start + batch_size]

            def step(stage):
                if callback is None:
                    return None
                return lambda i, n, x_t, prediction: callback(stage, i + 1, n, start, len(jobs))  # noqa: B023

            embeds = self.image_embeddings([p for p, _ in part], [s for _, s in part], settings, step("prior"))
            texts = self.texts([p for p, _ in part])
            images.append(
                self.decoder.sample(
                    embeds,
                    *texts,
                    noise=SeededNoise([2 * s + 1 for _, s in part]),
                    num_inference_steps=settings.num_inference_steps,
                    guidance_scale=settings.guidance_scale,
                    sampler=settings.sampler,
                    callback=step("decoder"),
                ).cpu()
            )
        return torch.cat(images)

    def image_embeddings(self, prompts, seeds, settings, callback=None):
        """Image embeddings (B, D) that the prior draws for B prompts with B seeds."""
        return self.prior.sample(
            *self.texts(prompts),
            noise=SeededNoise([2 * s for s in seeds]),
            num_inference_steps=settings.prior_num_inference_steps,
            guidance_scale=settings.prior_guidance_scale,
            callback=callback,
        )

    def texts(self, prompts):
        """The text keys of B prompts (B, ...) and of the empty caption (1, ...); equal prompts are encoded once."""
        distinct = list(dict.fromkeys(prompts))
        encoded = self.clip.encode_text([*distinct, ""]).batch()
        rows = torch.tensor([distinct.index(p) for p in prompts])
        return {k: v[rows] for k, v in encoded.items()}, {k: v[-1:] for k, v in encoded.items()}

    def notes(self, prompt):
        """Lines about how this model will read a prompt: words it never saw, or a cut; see `prompts.notes`."""
        return notes(prompt, self.clip, self.vocabulary)

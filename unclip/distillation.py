"""A decoder that draws in a few steps, learned from one that takes many.

Progressive distillation (Salimans & Ho 2022, algorithm 2) of a guided teacher (Meng et al. 2023, stage one): a step of the
student from t to t'' is to land where several DDIM steps of its teacher land,

    x_0-hat(x_t) = (x_t'' - (sigma_t'' / sigma_t) x_t) / (alpha_t'' - (sigma_t'' / sigma_t) alpha_t),

where x_t'' is what those end at (`diffusion/distillation.py`). The paper halves the number of steps in phases, each with a
student of its own. Here all of them are learned at once by one network, which is told in how many steps it draws, since
the step from pure noise differs with that number (Frans et al. 2024, "One step diffusion via shortcut models", section 3):
the most steps are learned from the teacher, every smaller number from the student's own steps of the next larger one.

Why this and not consistency distillation (Song et al. 2023): an error travels over log2 of the teacher's steps, not over
all of them, so it gets along with less training; and its steps are plain DDIM, which draws nearly the picture that the
teacher draws from the same noise, where a consistency model has to add new noise between its steps. Counting forwards of
the network, with 4, 2 and 1 steps and a teacher of 16: 8 for what is learned from the guided teacher and 2 for either of
the others, 4 on average, beside the student's own forward and backward.
"""

import torch
from torch import nn

from .conditioning import text_of
from .data.images import to_float
from .decoder import Decoder
from .diffusion import draw_timesteps, noise_like, process
from .diffusion.distillation import distilled_x_0
from .errors import UserError


class Distillation(nn.Module):
    """A student decoder, which begins with the teacher's weights, and its loss. Of the two, only the student is trained,
    averaged and saved; the teacher is frozen, and draws at the timesteps of the spacing "trailing" from here on.

    Args:
        teacher: a Decoder. Its device is the caller's to choose; the student's is this module's.
        steps: the numbers of steps in which the student learns to draw, the largest first.
        teacher_steps: how many DDIM steps the teacher takes for a drawing.
        guidance_scale, guidance_start, guidance_end: of the teacher; the student draws without guidance what this one draws
            with it.

    Raises:
        UserError: a teacher that cannot be distilled, or numbers of steps that do not divide each other.
    """

    exported_prefix = "student."
    edge_layers = tuple("student." + name for name in Decoder.edge_layers)

    def __init__(
        self, teacher: Decoder, *, steps: list[int], teacher_steps: int, guidance_scale: float, guidance_start: float = 0.0,
        guidance_end: float = 1.0,
    ):  # fmt: skip
        super().__init__()
        if teacher.denoiser.learned_variance:
            raise UserError("this decoder learned its variance, which steps of DDIM do not have: distil one without")
        if teacher.denoiser.prediction == "eps":
            reason = "at pure noise, where drawing in one step begins, that tells nothing of the picture"
            raise UserError(f"this decoder predicts eps: {reason}; distil one that predicts v or x_0")
        if teacher.step_counts:
            raise UserError(f"this decoder was distilled already, to {teacher.step_counts} steps: name its own teacher")
        self.finer = [teacher_steps, *steps[:-1]]
        if not steps or any(n < 1 or m <= n or m % n for n, m in zip(steps, self.finer)):
            raise UserError(f"{steps} steps from a teacher's {teacher_steps}: each number has to divide the one before it")
        if teacher_steps > teacher.schedule.num_timesteps:
            raise UserError(f"teacher_steps is {teacher_steps}: the teacher has {teacher.schedule.num_timesteps} timesteps")
        self.steps, self.teacher_steps = steps, teacher_steps
        self.guidance = {"guidance_scale": guidance_scale, "guidance_start": guidance_start, "guidance_end": guidance_end}
        teacher.spacing = "trailing"
        self._teacher = [teacher.requires_grad_(False).eval()]  # in a list, so that it is no part of this module
        self.student = Decoder(**{**teacher.options, "step_counts": steps, "spacing": "trailing"})
        self.student.load_state_dict({**self.student.state_dict(), **teacher.state_dict()})
        self.student.null_image.requires_grad_(False)  # without guidance it is never shown

    @property
    def teacher(self):
        return self._teacher[0]

    def paths(self, k):
        """What is visited on each of the steps when drawing in steps[k], in the finer steps it is learned from:
        LongTensor (steps[k], r + 1). The spacing "trailing" visits every timestep of n steps in those of a multiple of n too."""
        times, r = self.student.schedule.timesteps(self.finer[k], "trailing"), self.finer[k] // self.steps[k]
        return torch.cat([times, torch.tensor([-1])]).unfold(0, r + 1, r)

    def loss(self, batch, generator=None):
        """Algorithm 2: (loss of each sample (B,), t / T (B,)). The squared error of x_0-hat times SNR + 1, the weight that
        the error of v has (Salimans & Ho 2022, section 4).

        batch: image uint8 (B, 3, S, S); image_embed (B, D); with text also text_embed, text_states, text_mask and the
        empty caption's as null_text_... (1, ...).
        """
        student, schedule = self.student, self.student.schedule
        x_0 = to_float(batch["image"].to(student.device))                                              # (B, 3, S, S)
        embed, text, null_text = batch["image_embed"].to(x_0), {}, None
        if student.text_to_tokens is not None:
            text, null_text = text_of(batch, student.device)
        most = self.steps[0]
        drawn = draw_timesteps(len(x_0), len(self.steps) * most, generator)          # (B,): how many steps, and which
        k, place = drawn // most, drawn % most
        rows_of = [(k == level).nonzero()[:, 0] for level in range(len(self.steps))]
        paths = [self.paths(level)[place[rows] * n // most] for level, (rows, n) in enumerate(zip(rows_of, self.steps))]
        t = torch.empty_like(k)
        for rows, path in zip(rows_of, paths):
            t[rows] = path[:, 0]
        t, k = t.to(student.device), k.to(student.device)
        x_t = process.q_sample(schedule, x_0, t, noise_like(x_0, generator))
        x_0_hat = student.denoiser(x_t, t, **student.read(embed, **text, steps=k)).x_0                  # (B, 3, S, S)
        target = torch.empty_like(x_0_hat)
        for level, (rows, path) in enumerate(zip(rows_of, paths)):
            if len(rows):
                denoiser = self.denoiser(level, embed[rows], {key: v[rows] for key, v in text.items()}, null_text)
                target[rows] = distilled_x_0(denoiser, x_t[rows], path, schedule).to(target)
        error = (x_0_hat - target).square().flatten(1).mean(1)                                               # (B,)
        return error / (1 - schedule.alpha_bar_at(t)).to(error), t / schedule.num_timesteps

    def denoiser(self, k, image_embed, text=None, null_text=None):
        """From whom drawing in steps[k] is learned, as a denoiser: the guided teacher, or the student in more steps."""
        if k == 0:
            return self.teacher.guided(image_embed, text, null_text, **self.guidance)
        return self.student.guided(image_embed, text, null_text, 1.0, num_inference_steps=self.steps[k - 1])

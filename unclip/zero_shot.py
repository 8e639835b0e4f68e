"""CLIP as a classifier (Radford et al. 2021, section 3.1): a picture is of the class whose text is nearest to it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .data.captions import with_article
from .data.texts import mean_texts
from .errors import UserError

PLACEHOLDERS = ("{c}", "{}", "{a}")
# Prompts where the data bring none; see `fill`.
TEMPLATES = (
    "a photo of {a}.", "a picture of {a}.", "a good photo of {a}.", "a small photo of {a}.", "a photo of the {}.",
    "{a}.", "{}",
)  # fmt: skip


def fill(template, name, no_article=()):
    """A prompt: `{c}` or `{}` stands for the name, `{a}` for the name with its article.

    Raises:
        UserError: the template has no place for the name.
    """
    if not any(p in template for p in PLACEHOLDERS):
        raise UserError(f"the template {template!r} has no place for the name: write {{c}}, or {{a}} for 'a dog'")
    return template.replace("{a}", with_article(name, no_article)).replace("{c}", name).replace("{}", name)


class ZeroShotClassifier:
    """Names pictures without training.

    A class is the mean, over templates and names, of its prompts' L2-normalised text embeddings, normalised again
    (section 3.1.4).

    Args:
        clip: a FrozenCLIP.
        names: C strings, or C lists of strings for classes with several names, the first being the one shown.
        templates: strings, see `fill`; no_article: names that take no article.

    Raises:
        UserError: no class, a class without a name, no template, or a template without a place for the name.
    """

    def __init__(self, clip, names, templates=("a photo of {a}.",), no_article=(), batch_size=256):
        names = [[n] if isinstance(n, str) else list(n) for n in names]
        if not names or not all(n and all(word.strip() for word in n) for n in names):
            raise UserError("zero-shot classification needs class names, and none of them empty")
        if not templates:
            raise UserError("zero-shot classification needs at least one template, such as 'a photo of {a}.'")
        self.clip, self.names = clip, [n[0] for n in names]
        prompts = [[fill(t, n, no_article) for n in group for t in templates] for group in names]
        self.weights = mean_texts(prompts, clip, batch_size)                                                  # (C, D)

    @torch.no_grad()
    def logits(self, images):
        """PIL images, or float (B, 3, H, W) in [-1, 1] -> (B, C): cosines times CLIP's inverse temperature."""
        return self.logits_of(self.clip.encode_image(images))

    def logits_of(self, image_embed):
        """As `logits`, for embeddings (B, D) of pictures, which need not be of unit length."""
        return self.clip.logit_scale() * F.normalize(image_embed.float(), dim=-1) @ self.weights.T

    def probabilities(self, images):
        """As `logits`, but the softmax over the classes."""
        return self.logits(images).softmax(dim=-1)

    def evaluate(self, batches):
        """Classify labelled pictures. batches: pairs of images, as for `logits`, and labels (B,).

        Raises:
            UserError: a label that is none of the classes, or no picture.
        """
        classes = len(self.names)
        confusion, in_top5 = torch.zeros(classes * classes, dtype=torch.long), 0
        for images, labels in batches:
            labels = torch.as_tensor(labels)
            if not ((labels >= 0) & (labels < classes)).all():
                label = next(n for n in labels.tolist() if not 0 <= n < classes)
                raise UserError(f"a picture has the label {label}, but there are {classes} class names (from 0)")
            ranked = self.logits(images).topk(min(5, classes), dim=1).indices.cpu()  # (B, 5)
            in_top5 += int((ranked == labels[:, None]).any(dim=1).sum())
            confusion += torch.bincount(labels * classes + ranked[:, 0], minlength=classes * classes)
        scores = Scores(self.names, confusion.view(classes, classes), in_top5)
        if scores.num_images == 0:
            raise UserError("no pictures to classify")
        return scores


@dataclass
class Scores:
    """What a classifier got right. confusion: (C, C), how many pictures of the row's class were called the column's."""

    names: list
    confusion: torch.Tensor
    in_top5: int

    @property
    def num_images(self):
        return int(self.confusion.sum())

    @property
    def top1(self):
        return int(self.confusion.diagonal().sum()) / self.num_images

    @property
    def top5(self):
        return self.in_top5 / self.num_images

    @property
    def recalls(self):
        """{name's position: share of its pictures called right}, of the classes that have pictures."""
        counts = self.confusion.sum(dim=1).tolist()
        hits = self.confusion.diagonal().tolist()
        return {k: hit / count for k, (hit, count) in enumerate(zip(hits, counts)) if count}

    @property
    def mean_per_class(self):
        return sum(self.recalls.values()) / len(self.recalls)

    def summary(self):
        """All figures as plain Python numbers, for JSON."""
        return {
            "num_images": self.num_images,
            "top1": self.top1,
            "top5": self.top5,
            "mean_per_class": self.mean_per_class,
            "classes": [
                {"name": self.names[k], "num_images": int(self.confusion[k].sum()), "recall": recall}
                for k, recall in self.recalls.items()
            ],
        }

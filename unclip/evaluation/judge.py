"""A set of pictures in figures: how like the real ones, how varied, how true to their prompts."""

from dataclasses import dataclass

import torch

from ..data.images import to_float
from . import metrics
from .bootstrap import mean_figure, pairs_figure, set_figure
from .features import BATCH, ClipFeatures
from .pictures import Pictures, shuffled

# name: (what a table calls it, its unit's format, is more better)
FIGURES = {
    "frechet_distance": ("Frechet distance", "{:.2f}", False),
    "kernel_distance": ("kernel distance", "{:.4f}", False),
    "cmmd": ("CMMD", "{:.3f}", False),
    "precision": ("precision", "{:.1%}", True),
    "recall": ("recall", "{:.1%}", True),
    "density": ("density", "{:.2f}", True),
    "coverage": ("coverage", "{:.1%}", True),
    "clip_score": ("CLIP score", "{:.2f}", True),
    "top1": ("named right", "{:.1%}", True),
    "top5": ("named right within five", "{:.1%}", True),
}


@dataclass
class Seen:
    """Pictures, and what the judge's two pairs of eyes made of them: features (N, F) and image_embed (N, D)."""

    pictures: Pictures
    features: torch.Tensor
    image_embed: torch.Tensor

    def __len__(self):
        return len(self.pictures)

    def take(self, rows):
        return Seen(self.pictures.take(rows), self.features[rows], self.image_embed[rows])


class Judge:
    """Args:
    clip: the FrozenCLIP that says how true pictures are to their prompts.
    features: what the distances are taken in (see features.py).
    classifier: a ZeroShotClassifier over the classes of the labels, by that CLIP; None: nothing is named.
    """

    def __init__(self, clip, features, classifier=None):
        self.clip, self.features, self.classifier = clip, features, classifier

    def look(self, pictures):
        """All that is to be computed of each picture, once."""
        embeds, features = [], []
        same = getattr(self.features, "clip", None) is self.clip
        for part in pictures.images.split(BATCH):
            images = to_float(part)
            embeds.append(self.clip.encode_image(images).float().cpu())
            features.append(self.features.scaled(embeds[-1]) if same else self.features(images))
        return Seen(pictures, torch.cat(features), torch.cat(embeds))

    def against(self, seen, reference, seed=0, rounds=100):
        """How near a set is to a reference set, and how much of it it covers: {name: Figure}.

        Distances grow as sets shrink: of a larger set, as many as the reference has are taken, at random. The intervals
        of precision, recall and coverage are those of a share of one set, the other as it is: a little too narrow.

        Raises:
            ValueError: fewer pictures than a metric needs.
        """
        seen = shuffled(seen, len(reference.pictures), seed)
        x, y = seen.features, reference.features
        figures = {}
        figures["frechet_distance"] = set_figure(metrics.frechet_distance, x, y, seed, rounds, least=0.0)
        figures["kernel_distance"] = set_figure(metrics.kernel_distance, x, y, seed, rounds)  # unbiased: may be below 0
        if isinstance(self.features, ClipFeatures):
            figures["cmmd"] = set_figure(metrics.cmmd, x, y, seed, rounds, least=0.0)
        for metric in (metrics.precision, metrics.recall, metrics.coverage):
            figures[metric.__name__] = mean_figure(metric(x, y), seed, rounds)
        figures["density"] = pairs_figure(metrics.density(x, y), seed, rounds)
        return figures

    def by_prompt(self, seen, seed=0, rounds=100):
        """How true pictures are to their prompts and labels, where they have any: {name: Figure}."""
        figures, pictures = {}, seen.pictures
        if pictures.prompts is not None:
            distinct = list(dict.fromkeys(pictures.prompts))
            parts = [distinct[k : k + BATCH] for k in range(0, len(distinct), BATCH)]
            text = torch.cat([self.clip.encode_text(part).embed.cpu() for part in parts])
            place = {prompt: k for k, prompt in enumerate(distinct)}
            rows = torch.tensor([place[prompt] for prompt in pictures.prompts])
            figures["clip_score"] = mean_figure(metrics.clip_score(seen.image_embed, text[rows]), seed, rounds)
        if pictures.labels is not None and self.classifier is not None:
            hits = hits_of(self.classifier, seen.image_embed, pictures.labels)
            figures |= {"top1": mean_figure(hits[:, 0], seed, rounds), "top5": mean_figure(hits.any(1), seed, rounds)}
        return figures

    def by_class(self, seen):
        """{name of a class: the share of its pictures that are named right, a Figure}; empty where there are no labels."""
        labels = seen.pictures.labels
        if labels is None or self.classifier is None:
            return {}
        hits = hits_of(self.classifier, seen.image_embed, labels)[:, 0]
        return {self.classifier.names[k]: mean_figure(hits[labels == k]) for k in labels.unique().tolist()}


def hits_of(classifier, image_embed, labels):
    """Is the label the first, second, ... of the five likeliest classes? bool (N, 5), fewer with fewer classes."""
    logits = classifier.logits_of(image_embed.to(classifier.weights.device)).cpu()
    return logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]

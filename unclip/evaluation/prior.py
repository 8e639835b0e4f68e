"""Does the prior know which picture a caption means? What it draws against the true embeddings and three baselines."""

import torch
import torch.nn.functional as F

from ..diffusion import SeededNoise
from .bootstrap import mean_figure
from .judge import hits_of

BATCH = 256
# name: (what a table calls it, its format, is more better)
PRIOR_FIGURES = {
    "cosine": ("cosine to the true embedding", "{:.3f}", True),
    "cosine_text": ("of the text embedding itself", "{:.3f}", None),
    "cosine_mean": ("of the mean embedding", "{:.3f}", None),
    "cosine_other": ("of another caption's prediction", "{:.3f}", None),
    "recall_at_1": ("the true picture is found first (R@1)", "{:.1%}", True),
    "recall_at_5": ("within five (R@5)", "{:.1%}", True),
    "top1": ("named right", "{:.1%}", True),
    "top1_true": ("the true embeddings", "{:.1%}", None),
}


def prior_figures(model, seen, settings, classifier=None, seed=0):
    """Figures of the embeddings that a model's prior draws for the prompts of real pictures: {name: Figure}.

    cosine: of each with its picture's embedding; cosine_...: what is had without it, the text embedding itself, the
    mean embedding, and the prediction for another prompt. recall_at_k: is its own picture among the k nearest of all
    these N? top1: does zero-shot classification name it right, and top1_true, the true embedding?

    Args:
        seen: N real pictures with prompts, their embeddings by the model's own CLIP (see judge.py).
        settings: `pipeline.Settings`, of which the prior's are read.
        classifier: by the model's own CLIP; None: nothing is named.
    """
    prompts, true = seen.pictures.prompts, seen.image_embed
    drawn, texts = [], []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        encoded = model.texts(part)
        seeds = range(seed + start, seed + start + len(part))
        drawn.append(model.image_embeddings(encoded, seeds, settings).float().cpu())
        texts.append(encoded[0]["text_embed"].float().cpu())
    drawn, texts = torch.cat(drawn), torch.cat(texts)
    others = [(k, another(prompts, k)) for k in range(len(prompts))]
    rows, other = torch.tensor([(k, o) for k, o in others if o is not None], dtype=torch.long).reshape(-1, 2).T
    rank = ranks(drawn, true)
    figures = {
        "cosine": F.cosine_similarity(drawn, true),
        "cosine_text": F.cosine_similarity(texts, true),
        "cosine_mean": F.cosine_similarity(true.mean(0, keepdim=True), true),
        "cosine_other": F.cosine_similarity(drawn[other], true[rows]),
        "recall_at_1": rank < 1,
        "recall_at_5": rank < 5,
    }
    if classifier is not None and seen.pictures.labels is not None:
        for name, embed in (("top1", drawn), ("top1_true", true)):
            figures[name] = hits_of(classifier, embed, seen.pictures.labels)[:, 0]
    return {name: mean_figure(values, seed) for name, values in figures.items() if len(values)}


def another(prompts, k):
    """The place of the next prompt after k, round about, that differs; None where there is none."""
    n = len(prompts)
    return next((j % n for j in range(k + 1, k + n) if prompts[j % n] != prompts[k]), None)


def ranks(drawn, true):
    """How many of the true embeddings (N, D) are nearer by cosine to what was drawn (N, D) than its own: (N,)."""
    cosine = F.normalize(drawn, dim=1) @ F.normalize(true, dim=1).T                                           # (N, N)
    return (cosine > cosine.diagonal()[:, None]).sum(1)

"""Does the prior know which picture a caption means? What it draws against the true embeddings and three baselines."""

import torch
import torch.nn.functional as F
from tqdm import tqdm

from .bootstrap import mean_figure, set_figure
from .features import ClipFeatures
from .judge import hits_of
from .metrics import frechet_distance

BATCH = 256
# name: (what a table calls it, its format, is more better; None: a baseline)
PRIOR_FIGURES = {
    "cosine": ("cosine to the true embedding", "{:.3f}", True),
    "cosine_text": ("of the text embedding itself", "{:.3f}", None),
    "cosine_mean": ("of the mean embedding", "{:.3f}", None),
    "cosine_other": ("of another caption's prediction", "{:.3f}", None),
    "recall_at_1": ("a picture of the caption is nearest (R@1)", "{:.1%}", True),
    "recall_at_5": ("among the nearest five (R@5)", "{:.1%}", True),
    "recall_at_1_chance": ("R@1 by chance", "{:.1%}", None),
    "frechet_distance": ("Frechet distance to the true embeddings", "{:.2f}", False),
    "top1": ("named right", "{:.1%}", True),
    "top1_true": ("the true embeddings", "{:.1%}", None),
}


def prior_figures(model, real, settings, classifier=None, seed=0, rounds=100):
    """Figures of the embeddings that a model's prior draws for the prompts of real pictures: {name: Figure}.

    cosine: of each with its picture's embedding; cosine_...: what is had without it, the text embedding itself, the
    mean embedding of the training pictures, and the prediction for another prompt. recall_at_k: is a picture of the
    same prompt among the k whose embeddings are nearest, of all these N? frechet_distance: between these N embeddings and
    the true ones, as features of pictures. top1: does zero-shot classification name it right, and top1_true, the true
    embedding?

    Args:
        real: Pictures with prompts and with image_embed, the embeddings that the prior was trained to predict.
        settings: `pipeline.Settings`, of which the prior's are read.
        classifier: by the model's own CLIP; None: nothing is named.
    """
    prompts, true = real.prompts, real.image_embed
    drawn, texts = [], []
    for start in tqdm(range(0, len(prompts), BATCH), desc="asking the prior", unit="batch", leave=False):
        part = prompts[start : start + BATCH]
        encoded = model.texts(part)
        seeds = range(seed + start, seed + start + len(part))
        drawn.append(model.image_embeddings(encoded, seeds, settings).float().cpu())
        texts.append(encoded.text["text_embed"].float().cpu())
    drawn, texts = torch.cat(drawn), torch.cat(texts)
    place = {prompt: k for k, prompt in enumerate(dict.fromkeys(prompts))}
    of_prompt = torch.tensor([place[prompt] for prompt in prompts])
    rows, other = others(of_prompt)
    right = retrieved(drawn, true, of_prompt)                                                                 # (N, 5)
    figures = {
        "cosine": F.cosine_similarity(drawn, true),
        "cosine_text": F.cosine_similarity(texts, true),
        "cosine_mean": F.cosine_similarity(model.prior.mean.float().cpu()[None], true),
        "cosine_other": F.cosine_similarity(drawn[other], true[rows]),
        "recall_at_1": right[:, 0],
        "recall_at_5": right.any(1),
        "recall_at_1_chance": of_prompt.bincount()[of_prompt] / len(prompts),
    }
    if classifier is not None and real.labels is not None:
        for name, embed in (("top1", drawn), ("top1_true", true)):
            figures[name] = hits_of(classifier, embed, real.labels)[:, 0]
    measured = {name: mean_figure(values, seed, rounds) for name, values in figures.items() if len(values)}
    sets = ClipFeatures.scaled(drawn), ClipFeatures.scaled(true)
    return measured | {"frechet_distance": set_figure(frechet_distance, *sets, seed, rounds, least=0.0)}


def others(of_prompt):
    """For each place (N,) with one of another prompt, round about: (the places, the next one of another prompt)."""
    places = of_prompt.tolist()
    n, pairs = len(places), []
    for k in range(n):
        other = next((j % n for j in range(k + 1, k + n) if places[j % n] != places[k]), None)
        pairs += [] if other is None else [(k, other)]
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T


def retrieved(drawn, true, of_prompt):
    """Are the nearest, second, ... of the true embeddings (N, D) to each drawn one (N, D) of its prompt? bool (N, 5)."""
    cosine = F.normalize(drawn, dim=1) @ F.normalize(true, dim=1).T                                           # (N, N)
    nearest = cosine.topk(min(5, len(true)), dim=1).indices
    return of_prompt[nearest] == of_prompt[:, None]

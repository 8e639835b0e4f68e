"""A prior that is right, one that knows nothing, and one that mixes captions up, in figures."""

import pytest
import torch
import torch.nn.functional as F

from unclip.evaluation.metrics import frechet_distance
from unclip.evaluation.pictures import Pictures
from unclip.evaluation.prior import others, prior_figures, retrieved
from unclip.zero_shot import ZeroShotClassifier

NAMES = ["dog", "cat", "red car", "bridge"]


@pytest.fixture
def real():
    """Forty pictures of four prompts, with embeddings that are all their own."""
    labels = torch.arange(40) % 4
    prompts = [f"a photo of a {NAMES[k]}" for k in labels]
    embed = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    return Pictures(torch.zeros(40, 3, 8, 8, dtype=torch.uint8), prompts, labels, embed)


class Stub:
    """A model whose prior says what it is told to, prompt by prompt."""

    def __init__(self, model, answers):
        self.texts, self.prior, self.answers, self.at = model.texts, model.prior, answers, 0

    def image_embeddings(self, texts, seeds, settings):
        self.at += len(seeds)
        return self.answers[self.at - len(seeds) : self.at]


def figures(model, real, answers, **options):
    return {k: f.value for k, f in prior_figures(Stub(model, answers), real, model.settings(), **options).items()}


def test_a_prior_that_is_right(model, real):
    got = figures(model, real, real.image_embed * 3)
    assert got["cosine"] == pytest.approx(1) and got["recall_at_1"] == got["recall_at_5"] == 1
    expected = [F.cosine_similarity(real.image_embed[(k + 1) % 40], real.image_embed[k], 0) for k in range(40)]
    assert got["cosine_other"] == pytest.approx(float(sum(expected)) / 40, abs=1e-5)  # the next has another prompt
    text = model.texts(real.prompts).text["text_embed"]
    assert got["cosine_text"] == pytest.approx(F.cosine_similarity(text, real.image_embed).mean().item(), abs=1e-5)


def test_the_distance_of_its_embeddings_is_that_of_the_metric_whatever_their_length(model, real):
    answers = torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
    drawn, true = (4 * F.normalize(embed, dim=1) for embed in (answers, real.image_embed))  # of length sqrt(16)
    got = figures(model, real, 3 * answers)["frechet_distance"]
    assert got == pytest.approx(frechet_distance(drawn, true), rel=1e-4)
    assert got > 0.1 and figures(model, real, real.image_embed)["frechet_distance"] == pytest.approx(0, abs=1e-4)


def test_a_prior_that_knows_nothing_is_its_own_baseline(model, real):
    got = figures(model, real, model.prior.mean.expand(40, -1))
    assert got["cosine"] == pytest.approx(got["cosine_mean"]) == pytest.approx(got["cosine_other"])
    assert got["recall_at_1"] == pytest.approx(got["recall_at_1_chance"]) == pytest.approx(0.25)


def test_a_prior_that_mixes_captions_up(model, real):
    got = figures(model, real, real.image_embed.roll(-1, 0))
    assert got["recall_at_1"] == 0 and got["cosine_other"] < 1


def test_names_are_those_of_the_classifier(model, real):
    classifier = ZeroShotClassifier(model.clip, NAMES)
    answers = classifier.weights[real.labels] * 2
    got = figures(model, real, answers, classifier=classifier)
    assert got["top1"] == 1
    true = (F.normalize(real.image_embed, dim=1) @ classifier.weights.T).argmax(1) == real.labels
    assert got["top1_true"] == pytest.approx(true.double().mean().item())


def test_what_is_retrieved_is_a_picture_of_the_prompt():
    true = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    drawn = torch.tensor([[1.0, 0.1], [1.0, 0.2], [-1.0, -0.1]])
    assert retrieved(drawn, true, torch.tensor([0, 1, 2])).tolist() == [[True, False, False], [False, True, False], [True, False, False]]
    assert retrieved(drawn, true, torch.tensor([0, 0, 1]))[:, 0].tolist() == [True, True, True]


def test_another_prompt():
    assert others(torch.tensor([0, 0, 1])).tolist() == [[0, 1, 2], [2, 2, 0]]
    assert others(torch.tensor([0, 0])).shape == (2, 0)


def test_one_prompt_for_all_has_no_other(model, real):
    real.prompts = ["a photo of a dog"] * 40
    assert "cosine_other" not in figures(model, real, real.image_embed)

"""A text tower that is led to mean embeddings: its loss in training and in evaluation, and what of it learns."""

import pytest
import torch
from test_contrastive import CONFIG

from unclip.led_text import LedText

BATCH = {"caption": ["a dog", "a red cat", "a bird"], "image_embed": torch.randn(3, 16, generator=torch.Generator().manual_seed(1))}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = LedText(CONFIG)
    model.means = lambda batch: torch.randn(len(batch["caption"]), 16, generator=torch.Generator().manual_seed(2))
    return model


def test_it_is_the_angle_to_the_mean_and_in_evaluation_to_the_picture(model):
    read = model.read(BATCH)
    text = model.clip.encode_text(read["tokens"])
    for training, to in ((True, model.means(BATCH)), (False, BATCH["image_embed"])):
        loss, t = model.train(training).loss(read)
        torch.testing.assert_close(loss, 1 - torch.cosine_similarity(text, to), atol=1e-6, rtol=1e-5)
        assert t is None


def test_no_length_matters(model):
    read = model.read(BATCH)
    longer = {**read, "mean": 7 * read["mean"], "image_embed": 7 * read["image_embed"]}
    for training in (True, False):
        model.train(training)
        torch.testing.assert_close(model.loss(longer)[0], model.loss(read)[0], atol=1e-6, rtol=1e-5)


def test_only_what_reads_captions_learns(model):
    model.loss(model.read(BATCH))[0].mean().backward()
    learns = {name for name, weights in model.named_parameters() if weights.grad is not None and weights.grad.any()}
    assert {"clip.token_embedding.weight", "clip.text_projection"} <= learns
    assert not any(name.startswith("clip.visual") or "logit" in name for name in learns)
    assert not any(weights.requires_grad for name, weights in model.named_parameters() if "visual" in name or "logit" in name)


def test_steps_bring_it_to_the_means(model):
    read, optimizer = model.train().read(BATCH), torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(read)[0].mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01

"""The model that ships: these tests run the real one."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unclip
from unclip.data.images import square
from unclip.files import read_lines
from unclip.hub import POCKET
from unclip.openclip.library import import_open_clip
from unclip.zero_shot import TEMPLATES, ZeroShotClassifier

MEGABYTE = 2**20
SIDE = 128
PHOTOGRAPH = Path(__file__).resolve().parents[1] / "data" / "photos" / "cat.jpg"
QUICK = {"num_inference_steps": 12, "prior_num_samples": 2}


@pytest.fixture(scope="module")
def pocket():
    return unclip.UnCLIP.from_pretrained("pocket")


@pytest.fixture(scope="module")
def concepts():
    return read_lines(POCKET / "concepts.txt")


def test_it_is_small_half_precision_and_holds_no_pickle():
    weights = list(POCKET.rglob("*.safetensors"))
    assert {w.parent.name for w in weights} == {"clip", "prior", "decoder", "upsampler-1", "upsampler-2"}
    assert sum(w.stat().st_size for w in weights) <= 90 * MEGABYTE
    assert not [f for f in POCKET.rglob("*") if f.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl")]
    for file in weights:
        length = int.from_bytes(file.read_bytes()[:8], "little")
        header = json.loads(file.read_bytes()[8 : 8 + length])
        kinds = {tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"}
        assert kinds <= {"F16", "I64", "BOOL"}, file


def test_at_least_twenty_things_and_every_one_is_in_its_vocabulary(pocket, concepts):
    assert len(set(concepts)) == len(concepts) >= 20
    for concept in concepts:
        assert not pocket.notes(f"a photo of a {concept}"), concept


def test_an_unknown_word_is_told_with_the_nearest_known_ones(pocket):
    (note,) = pocket.notes("a photo of a dogge")
    assert "'dogge'" in note and "dog" in note.split(":")[1]


def test_a_prompt_longer_than_the_context_is_cut_and_drawn(pocket):
    prompt = "a photo of a dog " * 20
    assert any("cut" in note for note in pocket.notes(prompt))
    assert pocket(prompt, num_inference_steps=1, prior_num_inference_steps=1)[0].size == (SIDE, SIDE)


def test_no_two_concepts_are_the_same_to_its_clip(pocket, concepts):
    weights = ZeroShotClassifier(pocket.clip, concepts, TEMPLATES).weights
    assert (weights @ weights.T - torch.eye(len(concepts))).max() < 0.99


@torch.no_grad()
def test_its_clip_sees_what_open_clip_sees(pocket):
    """Its image tower is read without it."""
    model, _, preprocess = import_open_clip().create_model_and_transforms(f"local-dir:{POCKET / 'clip'}")
    with Image.open(PHOTOGRAPH) as cat:
        views = [square(cat, side) for side in (96, 128, 300)]
    expected = model.eval().encode_image(torch.stack([preprocess(view) for view in views]))
    expected = torch.nn.functional.normalize(expected, dim=-1) * expected.shape[-1] ** 0.5
    torch.testing.assert_close(pocket.clip.encode_image(views[:1]), expected[:1], rtol=1e-5, atol=1e-5)
    assert torch.cosine_similarity(pocket.clip.encode_image(views), expected).min() > 0.999  # their scaling rounds otherwise
    assert pocket.clip.logit_scale() == pytest.approx(model.logit_scale.exp().item())
    assert set(pocket.clip._held) == {"text", "image"}


@pytest.fixture(scope="module")
def drawn(pocket, concepts):
    """Two pictures a concept, drawn with less care than by default, which takes a minute."""
    images = pocket([f"a photo of a {c}" for c in concepts], num_images=2, batch_size=64, **QUICK)
    return {c: images[2 * k : 2 * k + 2] for k, c in enumerate(concepts)}


def test_its_pictures_are_what_the_prompt_says(pocket, concepts, drawn):
    """Far above chance (1 in 29): a decoder or a prior that ignores its condition cannot pass."""
    classifier = ZeroShotClassifier(pocket.clip, concepts, TEMPLATES)
    scores = classifier.evaluate([(images, [k] * len(images)) for k, images in enumerate(drawn.values())])
    assert scores.top1 > 0.4, Counter({concepts[k]: r for k, r in scores.recalls.items()})


def test_prompts_lead_towards_what_is_added_and_away_from_what_is_negative(pocket):
    """Of one seed each: how near the pictures are to a school bus, as CLIP sees it."""
    bus = pocket.clip.encode_text(["a photo of a school bus"]).embed

    def nearness(prompt, **settings):
        images = pocket(prompt, num_images=6, **QUICK, **settings)
        return torch.cosine_similarity(pocket.clip.encode_image(images), bus).mean()

    vehicle = "a photo of a vehicle"
    plain, added = nearness(vehicle), nearness(f"{vehicle} AND a photo of a school bus:0.5")
    away, negative = nearness(f"{vehicle} AND a photo of a school bus:-0.5"), nearness(vehicle, negative_prompt="a photo of a school bus")
    assert added > plain + 0.1 and away < plain - 0.03 and negative < plain - 0.03


def test_its_fidelity_keeps_a_photograph(pocket):
    """The cat that ships: the whole of fidelity gives it back, none of it another cat-coloured picture."""
    with Image.open(PHOTOGRAPH) as cat:
        kept, free = (np.asarray(pocket.vary(cat, num_images=1, fidelity=f)[0], dtype=float) for f in (1.0, 0.0))
        shown = np.asarray(square(cat, SIDE), dtype=float)
    assert np.abs(kept - shown).mean() < 0.4 * np.abs(free - shown).mean()


def test_same_seed_same_picture_in_a_batch_of_any_size(pocket, drawn):
    (alone,) = pocket("a photo of a dog", seed=1, **QUICK)
    together = drawn["dog"][1]
    difference = torch.tensor([abs(a - b) for a, b in zip(alone.tobytes(), together.tobytes())])
    assert difference.max() <= 2  # of 255: rounding, which differs with the size of a batch
    assert drawn["dog"][0].tobytes() != together.tobytes()


def test_the_card_states_the_figures_of_the_committed_report():
    top1 = json.loads((POCKET / "evaluation.json").read_text())["pictures"]["top1"]
    for card in (POCKET / "README.md", Path(__file__).resolve().parents[1] / "README.md"):
        assert f"{top1['value']:.1%} (95% interval {top1['low']:.1%} to {top1['high']:.1%}) | {top1['num_samples']} |" in card.read_text()

"""The contrastive loss against open_clip's, a slow loop and closed forms; the trained CLIP's way to disk and back."""

import math
import random

import pytest
import torch

from unclip.clip import FrozenCLIP, import_open_clip
from unclip.contrastive import PIXEL_STATS, ContrastiveCLIP, contrastive_loss

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1},
}


def leaves(batch, width=8):
    generator = torch.Generator().manual_seed(batch)
    embeds = torch.randn(2, batch, width, generator=generator, dtype=torch.float64)
    return [e.clone().requires_grad_() for e in (*embeds, torch.tensor(7.0, dtype=torch.float64))]


@pytest.mark.parametrize("concepts", [None, list("abcdef")])
def test_without_repeats_equals_open_clip_in_value_and_gradients(concepts):
    ours, theirs = leaves(6), leaves(6)
    loss = contrastive_loss(*ours, concepts).mean()
    unit = [torch.nn.functional.normalize(e, dim=-1) for e in theirs[:2]]
    expected = import_open_clip().ClipLoss()(*unit, theirs[2])
    torch.testing.assert_close(loss, expected)
    for a, b in zip(torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs)):
        torch.testing.assert_close(a, b)


def test_with_repeats_equals_a_slow_loop():
    image, text, scale = (e.detach() for e in leaves(7))
    concepts = ["dog", "cat", "dog", "ox", "dog", "cat", 3]
    loss = contrastive_loss(image, text, scale, concepts)
    for i in range(7):
        copies, expected = [j for j in range(7) if concepts[j] == concepts[i]], 0.0
        for anchors, others in ((image, text), (text, image)):
            logits = [scale.item() * torch.cosine_similarity(anchors[i], other, dim=0).item() for other in others]
            total = math.log(sum(math.exp(v) for v in logits))
            expected += sum(total - logits[j] for j in copies) / len(copies) / 2
        assert loss[i].item() == pytest.approx(expected, rel=1e-6)


def test_copies_share_the_target():
    """Two copies of each concept: the least possible loss is log 2, where an anchor is equally near to both copies,
    and far from the rest; that point is flat. A loss without groups would still push the copies apart there."""
    directions = torch.eye(3, dtype=torch.float64).repeat_interleave(2, dim=0)  # (6, 3)
    concepts, scale = [k // 2 for k in range(6)], torch.tensor(100.0, dtype=torch.float64)
    image, text = (directions.clone().requires_grad_() for _ in range(2))
    loss = contrastive_loss(image, text, scale, concepts).mean()
    assert loss.item() == pytest.approx(math.log(2))
    for gradient in torch.autograd.grad(loss, (image, text)):
        assert gradient.abs().max() < 1e-12
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        moved = [directions + 0.1 * torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
        assert contrastive_loss(*moved, scale, concepts).mean() > loss


def test_the_length_of_embeddings_does_not_matter():
    image, text, scale = leaves(5)
    torch.testing.assert_close(contrastive_loss(3 * image, text / 7, scale), contrastive_loss(image, text, scale))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ContrastiveCLIP(CONFIG)


def pictures(count, seed=0):
    return torch.randint(256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_the_batch_key_concept_decides_the_positives(model):
    """Different captions of one concept are positives, equal captions of two concepts are not."""
    model.eval()
    batch = {"image": pictures(4), "caption": ["a dog", "the dog", "a crane", "a crane"]}
    per_pair, timestep = model.loss({**batch, "concept": ["dog", "dog", "crane (bird)", "crane (machine)"]})
    assert timestep is None and per_pair.shape == (4,)
    tokens = model.tokenizer(batch["caption"])
    mean, std = (torch.tensor(s)[:, None, None] for s in PIXEL_STATS)
    image, text, scale = model.clip((batch["image"] / 255 - mean) / std, tokens)
    logits = scale * image @ text.T
    target = torch.tensor([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    expected = -(target * logits.log_softmax(1)).sum(1) / 2 - (target * logits.T.log_softmax(1)).sum(1) / 2
    torch.testing.assert_close(per_pair, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(per_pair, model.loss({**batch, "concept": list("abcd")})[0])


@pytest.mark.parametrize("value, bound", [(9.0, math.log(100)), (-2.0, 0.0)])
def test_the_temperature_itself_is_bounded_and_keeps_its_gradient(tmp_path, value, bound):
    torch.manual_seed(0)
    model = ContrastiveCLIP(CONFIG).train()
    batch = {"image": pictures(3), "caption": ["a dog", "an ox", "a bus"], "concept": [0, 1, 2]}
    scale = model.clip.logit_scale
    scale.data.fill_(value)
    model.eval().loss(batch)
    assert scale.item() == value  # to look at a model does not change it
    loss = model.train().loss(batch)[0].mean()
    assert scale.item() == pytest.approx(bound)
    (gradient,) = torch.autograd.grad(loss, scale)
    assert gradient.abs() > 1e-6
    scale.data.fill_(value)  # the last step of a training leads beyond
    model.save(tmp_path / "clip", model.state_dict())
    assert FrozenCLIP(tmp_path / "clip").model.logit_scale.item() == pytest.approx(bound, abs=2e-3)  # half precision
    assert scale.item() == value


def test_a_temperature_within_the_bounds_is_left_alone(model):
    before = model.clip.logit_scale.item()
    model.train().loss({"image": pictures(2), "caption": ["a dog", "an ox"], "concept": [0, 1]})
    assert model.clip.logit_scale.item() == before == pytest.approx(math.log(1 / 0.07))


@pytest.mark.parametrize(
    "key, value", [("hf_tokenizer_name", "a/b"), ("hf_model_name", "a/b"), ("tokenizer_kwargs", {"clean": "lower"})]
)
def test_a_config_with_another_tokenizer_is_refused(key, value):
    """OpenCLIP would load the trained folder with that tokenizer, but the training used CLIP's."""
    with pytest.raises(ValueError, match=f"^text_cfg.{key}: .*leave it out$"):
        ContrastiveCLIP({**CONFIG, "text_cfg": {**CONFIG["text_cfg"], key: value}})


def test_training_learns_to_tell_captions_apart():
    torch.manual_seed(0)
    model = ContrastiveCLIP(CONFIG).train()
    captions = ["a red bus", "an ox", "a dog", "a blue boat"]
    images, rng = pictures(4), random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(25):
        order = rng.sample(range(4), 4)
        names = [captions[k] for k in order]
        loss = model.loss({"image": images[order], "caption": names, "concept": names})[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        final = model.eval().loss({"image": images, "caption": captions, "concept": captions})[0]
    assert final.max() < 0.2 < math.log(4)


def test_crops_are_taken_in_training_alone(model):
    model.crop = (24, 24)
    try:
        views = model.augment(torch.arange(32.0 * 32).view(1, 1, 32, 32).repeat(50, 3, 1, 1))
        assert views.shape == (50, 3, 24, 24)
        starts = views[:, 0, 0, 0].round().long()  # equals the crop's first pixel: nothing is interpolated
        assert torch.allclose(views[:, 0, 0, 0], starts.float(), atol=1e-3)
        assert (starts % 32).max() <= 8 and (starts // 32).max() <= 8 and len(starts.unique()) > 10
        model.crop, model.train_size = (4, 32), 20
        assert {model.augment(torch.zeros(2, 3, 32, 32)).shape for _ in range(20)} == {(2, 3, 20, 20)}
    finally:
        model.crop = model.train_size = None


@torch.no_grad()
def test_the_saved_folder_loads_with_plain_open_clip_and_gives_the_same_embeddings(model, tmp_path):
    folder = tmp_path / "clip"
    model.eval().save(folder, model.state_dict())
    assert sorted(p.name for p in folder.iterdir()) == ["open_clip_config.json", "open_clip_model.safetensors"]
    open_clip = import_open_clip()
    plain, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    plain.eval()
    assert (tuple(plain.visual.image_mean), tuple(plain.visual.image_std)) == PIXEL_STATS

    captions, images = ["a photo of a dog", "an ox"], pictures(2)
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(captions)
    assert torch.equal(tokens, model.tokenizer(captions))
    expected_text = plain.encode_text(tokens)
    from PIL import Image

    pil = [Image.fromarray(i.permute(1, 2, 0).numpy()) for i in images]
    expected_image = plain.encode_image(torch.stack([preprocess(i) for i in pil]))

    frozen = FrozenCLIP(folder)
    torch.testing.assert_close(frozen.encode_text(captions).embed, expected_text)
    torch.testing.assert_close(frozen.encode_image(pil), expected_image, rtol=1e-4, atol=1e-5)
    half = {"rtol": 2e-2, "atol": 2e-2}  # the folder is in half precision
    torch.testing.assert_close(model.clip.encode_text(tokens), expected_text, **half)
    mean, std = (torch.tensor(s)[:, None, None] for s in PIXEL_STATS)
    torch.testing.assert_close(model.clip.encode_image((images / 255 - mean) / std), expected_image, **half)

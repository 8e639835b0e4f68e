"""The contrastive loss against open_clip's, a slow loop and closed forms; the trained CLIP's way to disk and back."""

import math
import random

import pytest
import torch

from unclip.clip import FrozenCLIP
from unclip.contrastive import PIXEL_STATS, ContrastiveCLIP, contrastive_loss, cutmix
from unclip.openclip.library import import_open_clip

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1},
}


def leaves(batch, width=8):
    generator = torch.Generator().manual_seed(batch)
    embeds = torch.randn(2, batch, width, generator=generator, dtype=torch.float64)
    return [e.clone().requires_grad_() for e in (*embeds, torch.tensor(7.0, dtype=torch.float64))]


def named(concepts):
    """The keys of a batch whose pictures are known as the concepts that their captions name."""
    nothing = [{}] * len(concepts)
    return {"concept": list(concepts), "known": [[c] for c in concepts], "said": nothing, "readings": nothing}


def same(concepts):
    """The truth of a batch whose captions are true of each other's pictures where the concepts are equal."""
    return torch.tensor([[1 if a == b else -1 for b in concepts] for a in concepts])


@pytest.mark.parametrize("truth", [None, same("abcdef")])
def test_without_repeats_equals_open_clip_in_value_and_gradients(truth):
    ours, theirs = leaves(6), leaves(6)
    loss = contrastive_loss(*ours, truth).mean()
    unit = [torch.nn.functional.normalize(e, dim=-1) for e in theirs[:2]]
    expected = import_open_clip().ClipLoss()(*unit, theirs[2])
    torch.testing.assert_close(loss, expected)
    for a, b in zip(torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs)):
        torch.testing.assert_close(a, b)


def test_any_truth_equals_a_slow_loop():
    image, text, scale = (e.detach() for e in leaves(7))
    truth = torch.randint(-1, 2, (7, 7), generator=torch.Generator().manual_seed(1))
    truth.fill_diagonal_(1)
    loss = contrastive_loss(image, text, scale, truth)
    for i in range(7):
        expected = 0.0
        for anchors, others, row in ((image, text, truth[i]), (text, image, truth[:, i])):
            powers = [math.exp(scale * torch.cosine_similarity(anchors[i], other, dim=0)) for other in others]
            false = sum(power for power, known in zip(powers, row) if known == -1)
            each = [-math.log(power / (power + false)) for power, known in zip(powers, row) if known == 1]
            expected += sum(each) / len(each) / 2
        assert loss[i].item() == pytest.approx(expected, rel=1e-6)


def test_true_pairs_do_not_compete():
    """Two copies of each concept: the loss falls to 0 as they come together, and there nothing pushes them apart."""
    directions = torch.eye(3, dtype=torch.float64).repeat_interleave(2, dim=0)  # (6, 3)
    truth, scale = same([k // 2 for k in range(6)]), torch.tensor(100.0, dtype=torch.float64)
    image, text = (directions.clone().requires_grad_() for _ in range(2))
    loss = contrastive_loss(image, text, scale, truth).mean()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    for gradient in torch.autograd.grad(loss, (image, text)):
        assert gradient.abs().max() < 1e-12


def test_a_pair_of_which_nothing_is_known_has_no_say():
    (image, text, scale), truth = leaves(4), same("abcd")
    truth[0, 1] = truth[1, 0] = 0
    before = contrastive_loss(image, text, scale, truth)
    (gradient,) = torch.autograd.grad(before[0], text)
    with torch.no_grad():
        moved = text.clone()
        moved[1] = -text[1]
    after = contrastive_loss(image, moved, scale, truth)
    alone = contrastive_loss(image[[0, 2, 3]], text[[0, 2, 3]], scale)
    assert gradient[1].abs().max() == 0
    torch.testing.assert_close(before[0], alone[0])
    torch.testing.assert_close(after[0], before[0])


def test_autocast_leaves_it_in_full_precision():
    image, text, scale = (e.detach().float() for e in leaves(6))
    with torch.autocast("cpu", torch.float16):
        loss = contrastive_loss(image, text, scale, same("aabbcd"))
    torch.testing.assert_close(loss, contrastive_loss(image, text, scale, same("aabbcd")))


def test_all_captions_true_of_all_pictures_costs_nothing():
    image, text, scale = leaves(3)
    loss = contrastive_loss(image, text, scale, torch.ones(3, 3))
    assert loss.abs().max() == 0
    assert all(g.abs().max() == 0 for g in torch.autograd.grad(loss.sum(), (image, text)))


def test_the_length_of_embeddings_does_not_matter():
    image, text, scale = leaves(5)
    torch.testing.assert_close(contrastive_loss(3 * image, text / 7, scale), contrastive_loss(image, text, scale))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ContrastiveCLIP(CONFIG)


def normalized(images):
    mean, std = (torch.tensor(s)[:, None, None] for s in PIXEL_STATS)
    return (images / 255 - mean) / std


def pictures(count, seed=0):
    return torch.randint(256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_what_is_known_of_the_pictures_decides_the_positives(model):
    """Different captions of one thing are positives, equal captions of two things are not."""
    model.eval()
    batch = {"image": pictures(4), "caption": ["a dog", "the dog", "a crane", "a crane"]}
    concepts = ["dog", "dog", "crane (bird)", "crane (machine)"]
    per_pair, timestep = model.loss(model.read({**batch, **named(concepts)}))
    assert timestep is None and per_pair.shape == (4,)
    tokens = model.tokenizer(batch["caption"])
    image, text, scale = model.clip(normalized(batch["image"]), tokens)
    torch.testing.assert_close(per_pair, contrastive_loss(image, text, scale, same(concepts)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(per_pair, model.loss(model.read({**batch, **named("abcd")}))[0])


def test_the_image_tower_alone_learns_from_labels_and_leaves_the_text_tower():
    torch.manual_seed(0)
    model = ContrastiveCLIP(CONFIG, towers="image", num_labels=3).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    batch, optimizer = {"image": pictures(6), "label": torch.tensor([0, 1, 2] * 2)}, torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(30):
        per_picture, timestep = model.loss(batch)
        optimizer.zero_grad()
        per_picture.mean().backward()
        optimizer.step()
    assert timestep is None and per_picture.shape == (6,)
    image_embed = model.eval().clip.encode_image(normalized(batch["image"]))
    cosines = torch.cosine_similarity(image_embed[:, None], model.labels[None], dim=-1)
    assert cosines.argmax(1).tolist() == batch["label"].tolist()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert "labels" in moved and "clip.logit_scale" in moved
    assert all(k.startswith(("labels", "clip.visual.", "clip.logit_scale")) for k in moved)


def test_labels_are_smoothed_as_torch_does_it():
    torch.manual_seed(0)
    model = ContrastiveCLIP(CONFIG, towers="image", num_labels=3).eval()
    batch = {"image": pictures(4), "label": torch.tensor([0, 1, 2, 0])}
    image = torch.nn.functional.normalize(model.clip.encode_image(normalized(batch["image"])), dim=-1)
    logits = model.clip.logit_scale.exp() * image @ torch.nn.functional.normalize(model.labels, dim=-1).T
    soft = 0.9 * torch.eye(3)[batch["label"]] + 0.1 / 3
    torch.testing.assert_close(model.loss(batch)[0], -(soft * logits.log_softmax(1)).sum(1), rtol=1e-4, atol=1e-5)


def test_cutmix_pastes_one_box_of_the_other_picture_and_tells_its_area():
    torch.manual_seed(0)
    images = torch.arange(64.0)[:, None, None, None].expand(64, 3, 16, 16)  # each picture is one number
    mixed, other, own = cutmix(images, 1.0)
    assert other.sort().values.tolist() == list(range(64))
    for k, picture in enumerate(mixed):
        pasted = picture[0] != k
        assert (picture == picture[:1]).all()
        assert (picture[0][pasted] == other[k]).all()
        if other[k] != k:
            assert own[k].item() == pytest.approx(1 - pasted.float().mean().item())
        rows, columns = pasted.any(1).sum(), pasted.any(0).sum()
        assert rows * columns == pasted.sum()  # a rectangle
    assert own.min() < 0.4 and own.max() > 0.9


def test_cutmix_mixes_a_share_of_the_pictures():
    torch.manual_seed(0)
    images = torch.rand(1000, 1, 32, 32)
    untouched, _, own = cutmix(images, 0.0)
    assert torch.equal(untouched, images) and own.tolist() == [1.0] * 1000
    assert 0.2 < (cutmix(images, 0.3)[2] < 1).float().mean() < 0.35  # a few boxes are smaller than a pixel


def test_a_mixed_picture_has_the_loss_of_both_labels_by_area():
    model = ContrastiveCLIP(CONFIG, mix=1.0, towers="image", num_labels=3)
    batch = {"image": pictures(4), "label": torch.tensor([0, 1, 2, 0])}
    torch.manual_seed(3)
    loss, _ = model.train().loss(batch)
    torch.manual_seed(3)
    mixed, other, own = cutmix(batch["image"].float(), 1.0)
    model.mix, batch["image"] = 0.0, mixed.to(torch.uint8)
    label = batch["label"]
    first, second = (model.loss({**batch, "label": one})[0] for one in (label, label[other]))
    assert (own < 1).any() and not torch.allclose(first, second)
    torch.testing.assert_close(loss, own * first + (1 - own) * second, rtol=1e-4, atol=1e-4)


def test_a_mixed_picture_has_the_loss_of_both_captions_by_area():
    """The pairs of the other captions are those of the batch in the order of the others."""
    torch.manual_seed(0)
    model = ContrastiveCLIP(CONFIG, mix=1.0).train()
    concepts, captions = ["dog", "dog", "bus", "boat"], ["a dog", "the dog", "a bus", "a boat"]
    batch = model.read({"image": pictures(4), "caption": captions, **named(concepts)})
    torch.manual_seed(2)
    loss, _ = model.loss(batch)
    torch.manual_seed(2)
    mixed, other, own = cutmix(batch["image"].float(), 1.0)
    model.mix, batch["image"] = 0.0, mixed.to(torch.uint8)
    first = model.loss(batch)[0]
    order = other.tolist()
    assert sorted(order) != order and (own < 1).any()
    swapped = {"image": batch["image"], "caption": [captions[k] for k in order], **named([concepts[k] for k in order])}
    swapped = model.read(swapped)
    torch.testing.assert_close(loss, own * first + (1 - own) * model.loss(swapped)[0], rtol=1e-4, atol=1e-4)


def test_the_text_tower_alone_is_led_to_a_locked_image_tower():
    torch.manual_seed(0)
    vision = {"timm_model_name": "test_efficientnet", "timm_proj": "linear", "timm_pool": "avg", "image_size": 32}
    model = ContrastiveCLIP({**CONFIG, "vision_cfg": vision}, towers="text").train()
    captions = ["a red bus", "an ox", "a dog", "a blue boat"]
    batch = model.read({"image": pictures(4), "caption": captions, **named("abcd")})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer, first = torch.optim.AdamW(model.parameters(), 3e-3), model.loss(batch)[0].mean().item()
    for _ in range(20):
        loss = model.loss(batch)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 2
    same_as_before = {k for k, v in model.state_dict().items() if torch.equal(v, before[k])}
    visual = {k for k in before if k.startswith("clip.visual.")}
    assert visual <= same_as_before and any("running_mean" in k for k in visual)
    assert model.training and not model.clip.visual.training


def test_an_image_tower_without_labels_is_refused():
    with pytest.raises(ValueError, match="^towers: image learns from labels"):
        ContrastiveCLIP(CONFIG, towers="image")


@pytest.mark.parametrize("value, bound", [(9.0, math.log(100)), (-2.0, 0.0)])
def test_the_temperature_itself_is_bounded_and_keeps_its_gradient(tmp_path, value, bound):
    torch.manual_seed(0)
    model = ContrastiveCLIP(CONFIG).train()
    batch = model.read({"image": pictures(3), "caption": ["a dog", "an ox", "a bus"], **named("abc")})
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
    model.train().loss(model.read({"image": pictures(2), "caption": ["a dog", "an ox"], **named("ab")}))
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
        loss = model.loss(model.read({"image": images[order], "caption": names, **named(names)}))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        final = model.eval().loss(model.read({"image": images, "caption": captions, **named(captions)}))[0]
    assert final.max() < 0.2 < math.log(4)


def test_whole_pictures_are_scaled_to_what_the_tower_takes(model):
    assert model.augment(torch.zeros(2, 3, 24, 24)).shape == (2, 3, 32, 32)
    model.train_size = 48
    try:
        assert model.augment(torch.zeros(2, 3, 24, 24)).shape == (2, 3, 48, 48)
    finally:
        model.train_size = None


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
    torch.testing.assert_close(model.clip.encode_image(normalized(images)), expected_image, **half)


def test_the_loss_needs_the_picture_and_what_was_read_alone(model):
    batch = {"image": pictures(3), "caption": ["a dog", "the dog", "an ox"], **named(["dog", "dog", "ox"])}
    read = model.read(batch)
    assert read["tokens"].shape == (3, 12) and torch.equal(read["truth"], same(["dog", "dog", "ox"]).to(torch.int8))
    model.eval()
    assert torch.equal(model.loss({key: read[key] for key in ("image", "tokens", "truth")})[0], model.loss(read)[0])

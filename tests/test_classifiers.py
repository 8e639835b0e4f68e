import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from unclip import classifiers
from unclip.classifiers import SIDES, Classifiers, imagenet_classifiers, view
from unclip.data.captions import ClassCaptions
from unclip.errors import UserError

TABLE = "n02124075: {names: [Egyptian cat], nouns: [cat]}\nn07749582: {names: [lemon], nouns: []}\n"
ARCHITECTURE = "test_resnet"  # of timm, a few thousand weights


class Linear(torch.nn.Module):
    """Logits that are linear in a picture's mean colour."""

    def __init__(self, classes, seed):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, classes, generator=torch.Generator().manual_seed(seed)))

    def forward(self, pictures):
        return pictures.mean((2, 3)) @ self.weight


def flat(count, seed=0):
    """Pictures of one colour each, which looks the same wherever one looks."""
    colours = torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return colours.expand(-1, -1, 16, 16).clone()


def test_the_figure_is_the_mean_log_likelihood_of_all_and_of_those_that_may_be_asked_for(monkeypatch):
    monkeypatch.setattr(classifiers, "view", lambda pictures, generator: pictures)
    networks = [(Linear(6, 1), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), (Linear(6, 2), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))]
    outputs, pictures, labels = torch.tensor([4, 0, 3]), flat(4), torch.tensor([2, 0, 1, 2])
    expected = 0
    for network, mean, std in networks:
        colour = ((pictures[:, :, 0, 0] + 1) / 2 - torch.tensor(mean)) / torch.tensor(std)
        likely = (colour @ network.weight).double().softmax(1)
        own = likely[torch.arange(4), outputs[labels]]
        expected = expected + (own.log() + (own / likely[:, outputs].sum(1)).log()) / 4
    assert torch.allclose(Classifiers(networks, outputs)(pictures, labels).double(), expected, atol=1e-5)


def test_it_teaches_pictures_and_never_the_classifiers():
    network = Linear(3, 1)
    judges = Classifiers([(network, (0.5,) * 3, (0.5,) * 3)], torch.arange(3))
    pictures = (0.5 * flat(6)).requires_grad_()
    judges(pictures, torch.arange(6) % 3, torch.Generator().manual_seed(0)).sum().backward()
    assert network.weight.grad is None and not network.weight.requires_grad and not network.training
    with torch.no_grad():
        moved = pictures + 20 * pictures.grad
        before, after = (judges(p, torch.arange(6) % 3, torch.Generator().manual_seed(0)).mean() for p in (pictures, moved))
    assert after > before


def test_views_are_turned_as_often_as_not_and_stay_near_the_picture():
    """Dark on the left, bright on the right."""
    picture = torch.linspace(-0.8, 0.8, 32).expand(1, 3, 32, 32).repeat(50, 1, 1, 1)
    generator = torch.Generator().manual_seed(3)
    seen = [view(picture, generator) for _ in range(12)]
    assert {v.shape[-1] for v in seen} == set(SIDES)
    assert all(v.abs().max() <= 1 and v.shape[:2] == (50, 3) and v.shape[2] == v.shape[3] for v in seen)
    slope = torch.cat([v[..., -8:].mean((1, 2, 3)) - v[..., :8].mean((1, 2, 3)) for v in seen])
    assert abs((slope > 0).double().mean() - 0.5) < 0.06
    assert slope.abs().min() > 0.6  # most of the 1.6 is in every view
    assert abs(torch.stack([v.mean() for v in seen]).mean()) < 0.03


def test_views_depend_on_the_generator_alone():
    first, again, other = (view(flat(3), torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and (first.shape != other.shape or not torch.equal(first, other))


@pytest.fixture
def network_folder(tmp_path):
    """Writes a network of random weights as timm reads it; gives its name."""

    def write(classes=1000, name="net"):
        folder = tmp_path / name
        folder.mkdir()
        torch.manual_seed(0)
        network = timm.create_model(ARCHITECTURE, num_classes=classes)
        save_file(network.state_dict(), folder / "model.safetensors")
        config = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "num_classes": classes, "input_size": [3, 160, 160]}
        config |= {"classifier": "fc", "first_conv": "conv1.0"}
        text = json.dumps({"architecture": ARCHITECTURE, "num_classes": classes, "pretrained_cfg": config})
        (folder / "config.json").write_text(text)
        return f"local-dir:{folder}"

    return write


@pytest.fixture
def table(tmp_path):
    (tmp_path / "classes.yaml").write_text(TABLE)
    return tmp_path / "classes.yaml"


def captions(*names):
    return ClassCaptions(names=[[name] for name in names], nouns=[[] for _ in names])


def test_classes_find_their_place_among_imagenets(network_folder, table):
    """The Egyptian cat is ImageNet's class 285, the lemon 951."""
    name = network_folder()
    judges = imagenet_classifiers([name, name], table, captions("lemon", "Egyptian cat"))
    assert judges.outputs.tolist() == [951, 285] and len(judges.networks) == 2
    assert torch.allclose(judges.std[1, :, 0, 0], torch.tensor([0.4, 0.5, 0.6]))
    pictures = flat(2)
    expected = timm.create_model(name, pretrained=True).eval()(pictures)
    assert torch.equal(judges.networks[0](pictures), expected)


def test_what_is_no_classifier_of_these_classes_ends_in_a_line(network_folder, table):
    for names, classes, says in [
        (["nothing_like_it"], captions("lemon"), "no classifier nothing_like_it: "),
        ([network_folder(classes=7)], captions("lemon"), "knows 7 classes: choose one of ImageNet's 1000"),
        ([], captions("lemon", "unicorn"), "has no class of ImageNet that is called 'unicorn'"),
    ]:
        with pytest.raises(UserError) as error:
            imagenet_classifiers(names, table, classes)
        assert says in str(error.value) and "\n" not in str(error.value)


def test_maps_are_those_of_the_last_two_resolutions(network_folder, table, monkeypatch):
    judges = imagenet_classifiers([network_folder(), network_folder(name="other")], table, captions("lemon", "Egyptian cat"))
    pictures = flat(2).repeat(1, 1, 4, 4)
    monkeypatch.setattr(classifiers, "view", lambda pictures, generator: pictures)
    seen, maps = (pictures + 1) / 2, judges.maps(pictures)
    seen = (seen - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.4, 0.5, 0.6])[:, None, None]
    assert [m.shape[1] for m in maps] == judges.map_channels()
    for network, found in zip(judges.networks, (maps[:2], maps[2:])):
        assert torch.equal(network.forward_features(seen), found[1])
        assert found[0].shape[2] == 2 * found[1].shape[2]


def test_a_network_without_maps_is_no_critics():
    with pytest.raises(UserError, match="a Linear gives no feature maps for a critic: choose another classifier"):
        Classifiers([(Linear(3, 1), (0.5,) * 3, (0.5,) * 3)], torch.arange(3)).map_channels()

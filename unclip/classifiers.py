"""ImageNet's classifiers, of timm, as a reward: how likely they think a picture's class."""

import timm
import torch
import torch.nn.functional as F
import yaml
from timm.data import ImageNetInfo, resolve_model_data_config
from torch import nn

from .errors import UserError, first_line
from .files import read_text

DEPTHS = 2  # of the resolutions at which a network has feature maps, the last so many
SIDES = (112, 128, 144)  # at which they are shown pictures: blurred ones are named better than at the 224 they learned from


class Classifiers(nn.Module):
    """The mean log-likelihood that frozen classifiers give the class of a picture.

    Each looks at a view of its own: a part of the picture, turned to its mirror image in half of the cases, stretched, lighter
    or darker, of more or less contrast, with a little noise. What fools a classifier in one view, and shows nothing, seldom
    does in others. Half of the figure is among the classes that may be asked for, half among all that the classifier knows.

    Args:
        networks: [(a module, pictures -> logits (B, K), its mean, its deviation)], the latter of pictures in [0, 1], (3,).
        outputs: LongTensor (C,), the place among the K of each class that may be asked for.
    """

    def __init__(self, networks, outputs):
        super().__init__()
        self.networks = nn.ModuleList(network.requires_grad_(False).eval() for network, _, _ in networks)
        self.register_buffer("mean", torch.tensor([mean for _, mean, _ in networks])[:, :, None, None])
        self.register_buffer("std", torch.tensor([std for _, _, std in networks])[:, :, None, None])
        self.register_buffer("outputs", outputs)

    def forward(self, pictures, labels, generator=None):
        """pictures (B, 3, S, S) in [-1, 1], labels (B,) in 0..C-1 -> (B,), at most 0."""
        total = 0.0
        for network, seen in self.views(pictures, generator):
            logits = network(seen).float()                                                                   # (B, K)
            of_all = F.cross_entropy(logits, self.outputs[labels], reduction="none")
            of_these = F.cross_entropy(logits[:, self.outputs], labels, reduction="none")
            total = total - (of_all + of_these) / 2
        return total / len(self.networks)

    def views(self, pictures, generator=None):
        """Each network with the view of the pictures that it is shown, (B, 3, s, s)."""
        for network, mean, std in zip(self.networks, self.mean, self.std):
            yield network, ((view(pictures, generator) + 1) / 2 - mean) / std

    def maps(self, pictures, generator=None):
        """The feature maps of the last two resolutions, for each network one after the other: [(B, C', H', W')]."""
        found = []
        for network, seen in self.views(pictures, generator):
            found += network.forward_intermediates(seen, indices=DEPTHS, intermediates_only=True)
        return found

    def map_channels(self):
        """C' of each of the `maps`. Raises UserError where a network gives none."""
        for network in self.networks:
            if not (hasattr(network, "forward_intermediates") and hasattr(network, "feature_info")):
                kind = type(network).__name__
                raise UserError(f"a {kind} gives no feature maps for a critic: choose another classifier, or leave photographs out")
        return [maps["num_chs"] for network in self.networks for maps in network.feature_info[-DEPTHS:]]


def view(pictures, generator=None):
    """Pictures (B, 3, S, S) as seen at random, (B, 3, s, s) with s of `SIDES`; differentiable."""

    def spread(*shape, around=0.0, by=1.0):
        return around + by * (2 * torch.rand(shape, generator=generator) - 1).to(pictures)

    batch = len(pictures)
    side = SIDES[int(torch.randint(len(SIDES), (), generator=generator))]
    zoom = spread(batch, around=0.875, by=0.125)                                                             # (B,)
    theta = pictures.new_zeros(batch, 2, 3)
    theta[:, 0, 0] = zoom * spread(batch, around=1.0, by=0.05) * spread(batch).sign()
    theta[:, 1, 1] = zoom * spread(batch, around=1.0, by=0.05)
    theta[:, :, 2] = spread(batch, 2, by=1.2) * (1 - zoom)[:, None]
    noise = torch.randn(pictures.shape, generator=generator).to(pictures)
    places = F.affine_grid(theta, [batch, 3, side, side], align_corners=False)
    seen = F.grid_sample(pictures + 0.03 * noise, places, mode="bicubic", padding_mode="reflection", align_corners=False)
    contrast, light = spread(batch, 1, 1, 1, around=1.0, by=0.15), spread(batch, 1, 1, 1, by=0.1)
    return (seen * contrast + light).clamp(-1, 1)


def imagenet_classifiers(names, table, classes):
    """The `Classifiers` of timm's names, such as "tf_efficientnet_lite0.in1k" or "local-dir:FOLDER".

    Args:
        table: a YAML file that says of WordNet ids the names, such as data/tiny-imagenet/classes.yaml.
        classes: the ClassCaptions whose classes may be asked for.

    Raises:
        UserError: no such classifier, or one that does not know ImageNet's 1,000 classes; a class that the table lacks.
    """
    known = {entry["names"][0]: wordnet_id for wordnet_id, entry in yaml.safe_load(read_text(table)).items()}
    ids = ImageNetInfo().label_names()
    for first, *_ in classes.names:
        if known.get(first) not in ids:
            raise UserError(f"{table} has no class of ImageNet that is called {first!r}: name the table of this model's classes")
    networks = []
    for name in names:
        try:
            network = timm.create_model(name, pretrained=True)
        except Exception as error:  # no such name, no network, a damaged file: timm and the hub fail in many ways
            raise UserError(f"no classifier {name}: {first_line(error)}") from None
        if network.num_classes != len(ids):
            raise UserError(f"the classifier {name} knows {network.num_classes} classes: choose one of ImageNet's {len(ids)}")
        config = resolve_model_data_config(network)
        networks.append((network, config["mean"], config["std"]))
    return Classifiers(networks, torch.tensor([ids.index(known[first]) for first, *_ in classes.names]))

"""What sees the pictures for the metrics: images float (B, 3, S, S) in [-1, 1] -> features (B, D)."""

import torch

from ..data.images import to_bytes
from ..errors import UserError, first_line
from ..hub import any_clip
from ..operators import declare_operators

BATCH = 128


class ClipFeatures:
    """The image embeddings of a FrozenCLIP, of unit variance: of length sqrt(D), whatever the model's own convention."""

    def __init__(self, clip, name):
        self.clip, self.name = clip, str(name)

    def __call__(self, images):
        return self.scaled(self.clip.encode_image(images))

    @staticmethod
    def scaled(embed):
        """Embeddings (B, D) as features."""
        return torch.nn.functional.normalize(embed.float(), dim=-1).cpu() * embed.shape[-1] ** 0.5


class InceptionFeatures:
    """The 2,048 numbers of FID's Inception-v3, by torch-fidelity, so that figures compare with published ones.

    Its weights are fetched once.

    Raises:
        UserError: the extra is not installed, or the weights cannot be fetched.
    """

    name = "inception"

    def __init__(self, device):
        try:
            declare_operators()
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

            self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).to(device)
        except ModuleNotFoundError:
            raise UserError('Inception features need an extra: pip install -e ".[eval]"') from None
        except Exception as error:  # the many ways of a network to fail
            raise UserError(f"Inception's weights cannot be fetched ({first_line(error)}): use a CLIP's features") from None
        self.device = device

    @torch.no_grad()
    def __call__(self, images):
        return self.network(to_bytes(images).to(self.device))[0].float().cpu()


def features_by(name, pretrained, device):
    """The features that a name stands for: "inception", or a CLIP as `any_clip` knows it.

    Raises:
        UserError: there is none of that name, or what it needs is missing.
    """
    if name == InceptionFeatures.name:
        return InceptionFeatures(device)
    return ClipFeatures(any_clip(name, pretrained, device), name)

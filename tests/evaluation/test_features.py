import builtins

import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as fidelity

from unclip.data.images import to_float
from unclip.errors import UserError
from unclip.evaluation.features import InceptionFeatures, features_by


def test_clips_features_are_its_embeddings(model_files, model):
    features = features_by(model_files, None, "cpu")
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(features(images), model.clip.encode_image(images))
    assert features.name == str(model_files)


def test_inception_sees_the_bytes_of_the_pictures(monkeypatch):
    """With random weights in place of those that would be fetched."""
    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *args, **kwargs: {})
    monkeypatch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    torch.manual_seed(0)
    features = InceptionFeatures("cpu")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    got = features(to_float(images))
    assert got.shape == (2, 2048) and (got[0] - got[1]).abs().max() > 0
    assert torch.equal(got, features.network(images)[0])


def test_without_a_network_inception_ends_in_one_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route\nto host")

    monkeypatch.setattr(fidelity, "load_state_dict_from_url", refuse)
    with pytest.raises(UserError, match="cannot be fetched .no route.: use a CLIP's features"):
        features_by("inception", None, "cpu")


def test_without_the_extra_it_names_it(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("torch_fidelity"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r'pip install -e "\.\[eval\]"'):
        InceptionFeatures("cpu")

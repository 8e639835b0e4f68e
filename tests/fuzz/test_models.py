import json
import shutil

import pytest
import torch
from conftest import CLIP_CONFIG, D
from hypothesis import given
from hypothesis import strategies as st
from networks.randomness import randomise
from PIL import Image

from unclip.clip import FrozenCLIP
from unclip.config import check
from unclip.data.captions import ClassCaptions
from unclip.decoder import Decoder
from unclip.errors import UserError
from unclip.hub import load_clip
from unclip.model_index import read_classes, read_index, read_vocabulary
from unclip.networks.image_tower import CSPDARKNETS, ImageTower
from unclip.openclip.building import build_clip, save_clip
from unclip.openclip.folder import image_name
from unclip.pipeline import Settings
from unclip.prior import DiffusionPrior
from unclip.rivals import Rivals
from unclip.upsampler import Upsampler

from .mutations import damaged, texts_of, weights_of

VISION = {"timm_model_name": "tiny", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "image_size": 32}
READERS = {"prior": DiffusionPrior, "decoder": Decoder, "upsampler-1": Upsampler}


def read_or_refused(watch, read):
    """What `read` gives, None where it is refused in one line."""
    with watch():
        try:
            return read()
        except UserError as error:
            assert "\n" not in str(error) and str(error).encode() and len(str(error)) < 2000
            return None


@pytest.fixture
def copy(cascade_files, tmp_path):
    """copy(FILE, content): the folder of a model in which one file is another."""
    folder = shutil.copytree(cascade_files, tmp_path / "model")

    def changed(file, content):
        for each in cascade_files.rglob("*"):
            if each.is_file() and (to := folder / each.relative_to(cascade_files)).read_bytes() != each.read_bytes():
                shutil.copyfile(each, to)
        (folder / file).write_bytes(content)
        return folder

    return changed


@pytest.mark.parametrize("part", READERS)
@given(data=st.data())
def test_any_part_is_read_or_refused(watch, copy, cascade_files, part, data):
    file = data.draw(st.sampled_from(["config.json", "model.safetensors"]))
    right = (cascade_files / part / file).read_bytes()
    content = data.draw(texts_of(json.loads(right)) if file == "config.json" else weights_of(right))
    read = read_or_refused(watch, lambda: READERS[part].from_pretrained(copy(f"{part}/{file}", content) / part))
    if read is not None:  # then it is as large as the file says
        tensors = read.state_dict().values()
        assert 2 * sum(t.numel() for t in tensors) < (cascade_files / part / "model.safetensors").stat().st_size
        assert not any(t.is_meta for t in tensors)


@given(data=st.data())
def test_any_clip_folder_is_read_or_refused(watch, copy, cascade_files, data):
    file = data.draw(st.sampled_from(["open_clip_config.json", "open_clip_config.json", "open_clip_model.safetensors"]))
    right = (cascade_files / "clip" / file).read_bytes()
    content = data.draw(texts_of(json.loads(right)) if file.endswith(".json") else weights_of(right))

    def read():
        clip = FrozenCLIP(copy(f"clip/{file}", content) / "clip")
        if data.draw(st.integers(0, 3)) == 0:
            clip.whole()
        return clip.encode_text(["a dog"]).embed

    read_or_refused(watch, read)


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory):
    """The folder of a CLIP whose image tower is plain too, of a kind smaller than any that timm has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CSPDARKNETS, "tiny", (1, (1, 1, 1, 1)))
        known = {**VISION, "timm_model_name": "cs3darknet_s"}
        tower = randomise(ImageTower(embed_dim=D, width=1, depths=(1, 1, 1, 1))).state_dict()
        state = build_clip({**CLIP_CONFIG, "vision_cfg": known}).state_dict()
        state = {k: tower.get(image_name(k), v) for k, v in state.items() if not k.startswith("visual.") or image_name(k) in tower}
        folder = tmp_path_factory.mktemp("clips") / "small"
        save_clip(state, {**CLIP_CONFIG, "vision_cfg": VISION}, ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), folder)
        assert set(FrozenCLIP(folder).whole()._held) == {"text", "image"}
        yield folder


@given(data=st.data())
def test_any_plain_image_tower_is_read_or_refused(watch, small_clip, tmp_path, data):
    file = data.draw(st.sampled_from(["open_clip_config.json", "open_clip_model.safetensors", "open_clip_model.safetensors"]))
    right = (small_clip / file).read_bytes()
    content = data.draw(texts_of(json.loads(right)) if file.endswith(".json") else weights_of(right))
    folder = shutil.copytree(small_clip, tmp_path / "clip", dirs_exist_ok=True)
    (folder / file).write_bytes(content)
    picture = data.draw(st.sampled_from([torch.zeros(1, 3, 8, 8), [Image.new("RGB", (9, 8))]]))

    def read():
        clip = FrozenCLIP(folder).whole()
        return clip.encode_image(picture) if "image" in clip._held else None

    embed = read_or_refused(watch, read)
    assert embed is None or embed.shape == (1, D)


CLASSES = json.dumps(vars(ClassCaptions(names=[["dog"], ["soda bottle", "bottle"]], nouns=[["animal"], []]))).encode()


@given(data=st.data())
def test_any_classes_are_read_or_refused(watch, copy, data):
    folder = copy("classes.json", data.draw(st.one_of(texts_of(json.loads(CLASSES)), damaged(CLASSES))))
    classes = read_or_refused(watch, lambda: read_classes(folder))
    if classes is not None:  # what is read can be used
        named = read_or_refused(watch, lambda: Rivals(classes, None).named("a photo of a dog and a bottle"))
        assert named is None or named <= set(range(len(classes.names)))


@given(data=st.data())
def test_any_index_and_vocabulary_are_read_or_refused(watch, copy, cascade_files, data):
    file = data.draw(st.sampled_from(["model_index.json", "model_index.json", "vocabulary.txt"]))
    right = (cascade_files / file).read_bytes()
    content = data.draw(texts_of(json.loads(right)) if file == "model_index.json" else damaged(right))
    folder = copy(file, content)
    settings = read_or_refused(watch, lambda: check(Settings, read_index(folder)["defaults"], folder))
    assert settings is None or settings.num_inference_steps >= 1
    words = read_or_refused(watch, lambda: read_vocabulary(folder))
    assert words is None or all(isinstance(word, str) for word in words)
    read_or_refused(watch, lambda: load_clip(folder))

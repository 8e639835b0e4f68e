from unclip.openclip.library import import_open_clip
from unclip.openclip.names import model_name

open_clip = import_open_clip()


def test_openais_weights_are_looked_for_as_safetensors():
    """Their old address gives pickles; OpenCLIP must find them on the hub."""
    names = open_clip.list_pretrained_models_by_tag("openai")
    assert "ViT-L-14" in names
    for name in names:
        assert open_clip.get_pretrained_cfg(name, "openai")["hf_hub"].endswith("/")
    assert model_name("ViT-L-14", "openai") == "ViT-L-14"

import pytest

from conftest import CLIP_CONFIG
from unclip.errors import UserError
from unclip.openclip.building import build_clip


def test_build_clip_refuses_in_one_line():
    with pytest.raises(UserError, match="the CLIP config.*heads_"):
        build_clip({**CLIP_CONFIG, "text_cfg": {**CLIP_CONFIG["text_cfg"], "heads_": 3}})

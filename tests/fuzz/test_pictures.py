import io

import pytest
import torch
from data.pictures import encoded, picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unclip.data.images import MAX_PIXELS, decode, read_image
from unclip.errors import UserError

from .mutations import damaged

FORMS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]
FILES = [encoded(picture(3, 16), form) for form in FORMS] + [
    encoded(picture(3, 16).convert("P"), "PNG", transparency=3), encoded(Image.new("I;16", (16, 16), 5000)),
    encoded(picture(3, 16).convert("RGBA")), encoded(picture(3, 16), "JPEG", progressive=True, exif=Image.Exif().tobytes()),
    encoded(picture(3, 16), "TIFF", compression="tiff_lzw"),
]  # fmt: skip
files = st.sampled_from(FILES).flatmap(damaged) | st.binary(max_size=200)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what it passes over
@given(content=files, size=st.sampled_from([1, 8, 33]))
def test_any_bytes_are_a_picture_or_skipped(watch, content, size):
    with watch():
        try:
            pixels = decode(content, size)
        except Exception as error:
            assert not isinstance(error, MemoryError), error
            return
    assert pixels.shape == (3, size, size) and pixels.dtype == torch.uint8


@pytest.mark.filterwarnings("ignore")
@given(content=files)
def test_any_file_is_a_picture_or_one_line(watch, tmp_path, content):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with watch():
        try:
            image = read_image(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return
    assert image.mode == "RGB" and 0 < image.size[0] * image.size[1] <= MAX_PIXELS
    assert Image.open(io.BytesIO(content)).format in FORMS

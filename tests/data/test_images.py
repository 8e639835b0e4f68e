import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unclip
from unclip.data.images import decode, decode_with_side, grid, read_image, square, to_float, to_pil, to_rgb
from unclip.errors import UserError

from .pictures import encoded, picture, png


def test_png_of_the_right_size_is_decoded_as_it_is():
    image = picture(5)
    assert torch.equal(decode(encoded(image), 8), torch.from_numpy(np.array(image)).permute(2, 0, 1))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])  # JPEGs are shrunk while they are read
def test_the_side_is_that_of_the_whole_picture(form):
    content = encoded(picture(5, 64).crop((0, 0, 64, 48)), form)
    for size in (8, 100):
        pixels, side = decode_with_side(content, size)
        assert side == 48 and torch.equal(pixels, decode(content, size))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode):
    form, options = ("TIFF", {"compression": "tiff_lzw"}) if mode in ("CMYK", "YCbCr") else ("PNG", {})
    pixels = decode(encoded(Image.new("RGB", (8, 8), "white").convert(mode), form, **options), 8)
    assert pixels.shape == (3, 8, 8) and pixels.min() >= 250


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(mode):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    pixels = decode(encoded(image.convert(mode)), 8)
    assert pixels[:, :, :4].max() == 0 and pixels[:, :, 4:].min() == 255


def test_transparent_colour_of_a_palette_is_white():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.paste(1, (0, 0, 4, 8))
    pixels = decode(encoded(image, transparency=0), 8)
    assert pixels[:, 0, 0].tolist() == [255, 0, 0] and pixels[:, 0, 7].tolist() == [255, 255, 255]


def test_16_bit_grey_is_scaled():
    values = np.array([[0, 257, 32896, 65535]] * 4, dtype=np.uint16)
    pixels = decode(encoded(Image.fromarray(values)), 4)
    assert pixels[0, 0].tolist() == [0, 1, 128, 255]


def test_exif_turns_the_picture():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 8, 4))
    turned = np.array(to_rgb(Image.open(io.BytesIO(encoded(image, exif=exif)))))
    assert turned[7, 0].tolist() == [255] * 3 and turned[0, 0].tolist() == [0] * 3


def test_square_keeps_the_centre():
    image = Image.new("RGB", (30, 10), "red")
    image.paste("green", (10, 0, 20, 10))
    assert square(image, 5).getcolors() == [(25, (0, 128, 0))]


def test_pixels_there_and_back():
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    back = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in to_pil(to_float(pixels))])
    assert torch.equal(back, pixels)
    assert to_float(pixels).min() >= -1 and to_float(torch.tensor([0, 255])).tolist() == [-1, 1]


def test_grid_places_and_enlarges():
    sheet = grid([Image.new("RGB", (2, 2), c) for c in ("red", "lime", "blue")], columns=2, scale=2, gap=1)
    assert sheet.size == (9, 9)
    assert [sheet.getpixel(at) for at in ((0, 0), (5, 3), (3, 8), (4, 0), (8, 8))] == [
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (255, 255, 255)]  # fmt: skip


# ---- pictures of strangers -------------------------------------------------------------------------------------------

def png_that_says(width, height, *more):
    """The head of a PNG of any size, and chunks (kind, content) after it."""
    head = b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [head, *more, (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("size", [(10_001, 10_000), (100_000_001, 1), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("error")
def test_a_bomb_is_refused_by_its_head(tmp_path, size):
    bitmap = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, *size, 1, 24, 0, 0, 1, 1, 0, 0)
    for content in (png_that_says(*size), bitmap):
        with pytest.raises(Image.DecompressionBombError):
            decode(content, 8)
        (tmp_path / "bomb.png").write_bytes(content)
        with pytest.raises(UserError, match="is enormous: shrink it to 100,000,000 pixels at most"):
            read_image(tmp_path / "bomb.png")


def test_a_text_chunk_that_unpacks_to_much_is_refused(tmp_path):
    text = (b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 10_000_000))
    content = png_that_says(8, 8, text)
    with pytest.raises(Exception, match="MAX_TEXT_CHUNK"):
        decode(content, 8)
    (tmp_path / "text.png").write_bytes(content)
    with pytest.raises(UserError, match="cannot read the picture"):
        read_image(tmp_path / "text.png")


def test_the_smallest_picture_and_the_thinnest():
    assert decode(png(3, 1), 8).unique(dim=2).shape == (3, 8, 1)
    assert decode(encoded(Image.new("RGB", (1, 20_000), "red")), 8)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("content", [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", b"P6 8 8 255 " + bytes(192), b"%PDF-1.4\n",
])  # fmt: skip
def test_only_the_documented_formats_are_tried(content, monkeypatch, tmp_path):
    """For EPS, Pillow runs Ghostscript."""
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("a program was run"))
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: pytest.fail("a program was run"))
    with pytest.raises(OSError, match="cannot identify image file"):
        decode(content, 8)
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(UserError, match="give a PNG, JPEG or WebP file"):
        read_image(tmp_path / "picture.png")


def test_pictures_are_opened_in_one_place():
    """Whose limits hold for all."""
    package = Path(unclip.__file__).parent
    found = [f for f in package.rglob("*.py") if "Image.open(" in f.read_text(encoding="utf-8")]
    assert found == [package / "data" / "images.py"]

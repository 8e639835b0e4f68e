import torch
from data.pictures import png, write_tar
from hypothesis import given
from hypothesis import strategies as st

from unclip.data.captions import ClassCaptions
from unclip.data.shards import estimated_samples, read_samples
from unclip.data.skipped import Skipped
from unclip.data.table import decode_sample, where_is

from .mutations import damaged

NAMES = ["0", "1", "a/b", "../../x", "/etc/x", "..", "", "x" * 120, "\u00e9", "__meta__", "0.1"]
CLASSES = ClassCaptions(names=[["dog"], ["cat"]], nouns=[[], []], reading_share=0.5)


@st.composite
def tars(draw, folder):
    """A shard's bytes: of any names and contents, whole or damaged, or none at all."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=2000))
    files = []
    for key in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5)):
        image = draw(st.just(png(len(files))) | damaged(png(1)))
        files.append((f"{key}.{draw(st.sampled_from(['png', 'PNG', 'jpg', 'b.png', 'x']))}", image))
        files.append((f"{key}.txt", draw(st.just(b"a dog\na cat") | st.binary(max_size=20))))
        label = st.just(b"1") | st.sampled_from([b"-1", b"7", b"9" * 5000, b"", "\u0663".encode(), b"1\n"])
        files.append((f"{key}.cls", draw(label)))
        if draw(st.booleans()):
            readings = [b'{"readings": {}}', b'{"readings": {"colour": []}}', b"[" * 5000, b'{"readings": 3}', b"\xff"]
            files.append((f"{key}.json", draw(st.sampled_from(readings))))
    content = write_tar(folder / "whole.tar", files).read_bytes()
    return content if draw(st.integers(0, 3)) == 0 else draw(damaged(content))


@given(data=st.data())
def test_any_shard_is_read_as_far_as_it_goes(watch, tmp_path, data):
    shard = tmp_path / "0.tar"
    shard.write_bytes(data.draw(tars(tmp_path)))
    skipped, keys, read = Skipped(), [], 0
    before = sorted(tmp_path.rglob("*"))
    with watch():
        assert estimated_samples([shard]) >= 0
        for sample in read_samples([shard], skipped):
            keys.append(sample["__key__"])
            for captions in (None, CLASSES):
                try:
                    image, text, *_ = decode_sample(sample, 8, captions)
                except Exception as error:
                    assert not isinstance(error, MemoryError), error
                    skipped(error, where_is(sample))
                    continue
                read += 1
                assert image.shape == (3, 8, 8) and image.dtype == torch.uint8
                assert all(isinstance(t, str) and t for t in text) and text if captions is None else text in (0, 1)
    assert read + skipped.count >= len(keys) == len(set(keys))
    assert sorted(tmp_path.rglob("*")) == before

import pytest
import torch
from data.clips import RampClip
from data.pictures import captioned_tar, png, write_tar
from conftest import CLIP_CONFIG, CONVOLUTIONS, D, SIDE
from networks.randomness import randomise

from unclip.decoder import Decoder
from unclip.errors import UserError
from unclip.openclip.building import build_clip, save_clip
from unclip.retarget import explained, linear_map, paired, retargeted
from unclip.upsampler import Upsampler


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_linear_relation_is_found():
    """Least squares finds a map that is there: the ridge shrinks it by a thousandth."""
    new, matrix, shift = draw(500, 6), draw(4, 6, seed=1), draw(4, seed=2)
    found, offset = linear_map(new, new @ matrix.T + shift)
    assert torch.allclose(found, matrix, atol=5e-3) and torch.allclose(offset, shift, atol=5e-3)


def test_embeddings_that_leave_a_direction_out_have_a_map_too():
    new = draw(500, 6)
    new[:, 0] = 1.0
    matrix, shift = linear_map(new, new[:, :4])
    assert torch.allclose(new @ matrix.T + shift, new[:, :4], atol=5e-3)


def test_what_is_explained_of_held_out_pictures():
    """All of a linear relation, half of one with noise as strong as it, nothing of chance, which fits what it saw."""
    new, noise = draw(4000, 6), draw(4000, 6, seed=1)
    assert explained(new, 3 * new + 1) == pytest.approx(1, abs=1e-3)
    assert explained(new, new + noise) == pytest.approx(0.5, abs=0.03)
    assert explained(draw(60, 20), draw(60, 20, seed=1)) < 0.05


def test_pictures_that_both_clips_could_read(tmp_path):
    """In the same order, those of one CLIP beside the other's; a key of another shard is another picture."""

    class Other(RampClip):
        def image_fingerprint(self):
            return "other"

        def encode_image(self, pixels):
            return 2 * super().encode_image(pixels)

    shards = [captioned_tar(tmp_path / f"{n}.tar", range(4 * n, 4 * n + 5)) for n in range(2)]  # 0004 stands in both
    new, old = paired(shards, RampClip(), Other())
    torch.testing.assert_close(2 * new, old, atol=4e-3, rtol=0)
    green = [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]
    torch.testing.assert_close(new[:, 2].float(), torch.tensor(green) / 127.5 - 1, atol=2e-3, rtol=0)
    with pytest.raises(UserError, match=r"too few pictures \(5\) for embeddings of 3 numbers"):
        paired(shards[:1], RampClip(), Other())


@pytest.mark.parametrize("dim", [D, D + 5])
@pytest.mark.parametrize("tokens", [0, 2])
def test_a_decoder_gives_the_same_for_the_same_picture_and_for_none(make_decoder, dim, tokens):
    decoder = make_decoder(image_tokens=tokens)
    new, matrix, shift = draw(3, dim, seed=3), draw(D, dim, seed=4), draw(D, seed=5)
    other = retargeted(decoder, matrix, shift)
    assert len(other.null_image) == dim
    x_t, t = draw(3, 3, SIDE, SIDE, seed=6).float(), torch.tensor([5, 500, 999])
    old = (new @ matrix.T + shift).float()
    for before, after in ((old, new.float()), (decoder.null_image.expand(3, -1), other.null_image.expand(3, -1))):
        with torch.no_grad():
            assert torch.allclose(
                decoder.network(x_t, t, **decoder.read(before)), other.network(x_t, t, **other.read(after)), atol=1e-4
            )


def test_an_upsampler_that_is_told_embeddings():
    upsampler = randomise(Upsampler(unet=CONVOLUTIONS, image_size=16, scale=2, embed_dim=D))
    new, matrix, shift = draw(2, 7, seed=3), draw(D, 7, seed=4), draw(D, seed=5)
    other = retargeted(upsampler, matrix, shift)
    x, t, level = draw(2, 3, 16, 16, seed=6).float(), torch.tensor([5, 999]), torch.tensor([0.1, 0.2])
    with torch.no_grad():
        a = upsampler.network(x, t, x, level, (new @ matrix.T + shift).float())
        assert torch.allclose(a, other.network(x, t, x, level, new.float()), atol=1e-4)


def test_a_decoder_that_reads_captions_is_refused(make_decoder):
    with pytest.raises(UserError, match="reads captions"):
        retargeted(make_decoder(text_dim=16), torch.eye(D, dtype=torch.float64), torch.zeros(D, dtype=torch.float64))


@pytest.fixture
def pictures(tmp_path):
    write_tar(tmp_path / "data" / "test" / "0.tar", [(f"{n}.{e}", c) for n in range(50) for e, c in (("png", png(n)), ("txt", b"a dog"))])
    return tmp_path / "data"


@pytest.fixture
def other_clip(tmp_path):
    config = {**CLIP_CONFIG, "embed_dim": 12}
    torch.manual_seed(3)
    save_clip(build_clip(config).state_dict(), config, ((0.5,) * 3, (0.25,) * 3), tmp_path / "clip")
    return tmp_path / "clip"


def test_the_command_writes_a_model_that_lacks_its_prior_alone(run_script, cascade_files, other_clip, pictures, tmp_path):
    out = tmp_path / "out"
    code, lines, err = run_script("retarget", "--model", cascade_files, "--clip", other_clip, "--data", pictures, "--out", out)
    assert code == 0, err
    assert "of the old embeddings' variance" in lines[-2] and "it has no prior yet" in lines[-1]
    assert len(Decoder.from_pretrained(out / "decoder").null_image) == 12
    assert Upsampler.from_pretrained(out / "upsampler-1").image_size == 2 * SIDE
    code, _, err = run_script("generate", "--model", out, "a dog", "--out", tmp_path / "drawn")
    assert code == 2 and "has no prior yet" in err[0]


def test_too_few_pictures_end_in_one_line(run_script, model_files, other_clip, tmp_path):
    write_tar(tmp_path / "data" / "test" / "0.tar", [("0.png", png(0)), ("0.txt", b"a dog")])
    code, _, err = run_script("retarget", "--model", model_files, "--clip", other_clip, "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert code == 2 and "too few pictures (1)" in err[-1] and not (tmp_path / "out").exists()

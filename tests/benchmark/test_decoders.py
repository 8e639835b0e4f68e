import shutil

import pytest

from unclip.benchmark.decoders import decoder_folder
from unclip.errors import UserError


def test_the_decoder_of_a_model(model_files):
    assert decoder_folder(model_files) == str(model_files / "decoder")


def test_a_model_without_a_decoder_that_reads_embeddings_alone_is_refused(model_copy, make_decoder):
    make_decoder(text_dim=16).save(model_copy / "decoder")
    with pytest.raises(UserError, match="reads captions, which are not made up here: choose a model whose does not$"):
        decoder_folder(model_copy)
    shutil.rmtree(model_copy / "decoder")
    with pytest.raises(UserError, match="has no decoder: choose one that has, such as pocket$"):
        decoder_folder(model_copy)

import pytest
import torch

from unclip.conditioning import trimmed


def text(lengths, total=7):
    mask = torch.arange(total) < torch.tensor(lengths)[:, None]
    return {"text_embed": torch.randn(len(lengths), 4), "text_states": torch.randn(len(lengths), total, 3), "text_mask": mask}


@pytest.mark.parametrize("lengths, left", [([2, 5, 3], 5), ([1, 1], 2), ([7, 1], 7)])
def test_what_no_text_fills_is_cut_from_all(lengths, left):
    whole, null = text(lengths), text([2])
    cut, cut_null = trimmed(whole, null)
    for before, after in ((whole, cut), (null, cut_null)):
        assert torch.equal(after["text_states"], before["text_states"][:, :left])
        assert torch.equal(after["text_mask"], before["text_mask"][:, :left])
        assert after["text_embed"] is before["text_embed"]
        assert before["text_states"].shape[1] == 7  # and the caller's stay as they were
    assert torch.equal(cut["text_mask"].sum(1), whole["text_mask"].sum(1))


def test_texts_of_several_lengths_become_as_long_as_the_longest_needs():
    short, null = trimmed(text([2, 3], total=4), text([5, 1], total=7))
    assert short["text_states"].shape == null["text_states"].shape == (2, 5, 3) and not short["text_states"][:, 4:].any()
    assert short["text_mask"].sum(1).tolist() == [2, 3] and null["text_mask"].sum(1).tolist() == [5, 1]

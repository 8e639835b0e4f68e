import torch

from unclip.openclip.tokenizer import clip_tokenizer, token_mask


def test_masks_of_other_tokenizers():
    class Inner:
        eos_token_id, pad_token_id = 2, 0

    class Wrapper:
        tokenizer = Inner()

    # an end token and padding; an end token that was stripped; a class token after the padding; no padding left
    tokens = torch.tensor([[5, 6, 2, 0, 0], [5, 6, 0, 0, 0], [5, 2, 0, 0, 9], [5, 6, 7, 8, 2]])
    assert token_mask(tokens, Wrapper()).sum(dim=1).tolist() == [3, 2, 2, 5]
    # "!" is token 0 to CLIP's tokenizer, which fills up with 0
    tokens = torch.tensor([[49406, 0, 0, 49407, 0, 0]])
    assert token_mask(tokens, clip_tokenizer(6)).tolist() == [[True] * 4 + [False] * 2]

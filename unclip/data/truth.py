"""Which captions of a batch are true of which of its pictures: a contrastive loss must push apart only what is false."""

import torch

TRUE, UNKNOWN, FALSE = 1, 0, -1


def truth_of_classes(class_captions, labels, readings, drawn):
    """int8 (B, B): whether caption j is true of picture i, for labelled pictures.

    It is false where it names another class, or says a reading that the picture shows otherwise ("a red car" of a blue
    one); unknown where the class is right and the picture has no clear reading of what is said.

    Args:
        class_captions: the set's ClassCaptions.
        labels: B ints, the pictures' classes; readings: B dicts, what was read off each (see attributes.py).
        drawn: B captions as `ClassCaptions.draw` gives them.
    """
    number = {c: k for k, c in enumerate(dict.fromkeys(caption.concept for caption in drawn))}
    column = torch.tensor([number[caption.concept] for caption in drawn])                                # (B,)
    named = {k: [c in class_captions.concepts(k) for c in number] for k in set(labels)}
    named = torch.tensor([named[k] for k in labels])[:, column]                                          # (B, B)
    truth = torch.where(named, TRUE, FALSE).to(torch.int8)
    for key in {key for caption in drawn for key in caption.said}:
        shown, said = [r.get(key) for r in readings], [caption.said.get(key) for caption in drawn]
        number = {word: k for k, word in enumerate({*shown, *said} - {None})} | {None: -1}
        shown, said = (torch.tensor([number[word] for word in words]) for words in (shown, said))        # (B,)
        unclear = (shown[:, None] < 0) & (said >= 0)
        wrong = (shown[:, None] >= 0) & (said >= 0) & (shown[:, None] != said)
        truth[unclear & (truth == TRUE)] = UNKNOWN
        truth[wrong] = FALSE
    return truth


def truth_of_texts(captions, drawn):
    """int8 (B, B): whether caption j is one of those of picture i; captions: B lists of str, drawn: B str."""
    known = [set(texts) for texts in captions]
    return torch.tensor([[TRUE if text in texts else FALSE for text in drawn] for texts in known], dtype=torch.int8)

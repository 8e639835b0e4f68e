"""Which captions of a batch are true of which of its pictures: a contrastive loss must push apart only what is false."""

import torch

TRUE, UNKNOWN, FALSE = 1, 0, -1


def truth_of(batch):
    """int8 (B, B): whether caption j is true of picture i.

    It is false where it names what the picture is not known as, or says a reading that the picture shows otherwise ("a
    red car" of a blue one); unknown where the name is right and the picture has no clear reading of what is said.

    batch: B each of `concept`, what the captions name, and `said`, the readings in them ({"colour": "red"}, see
    attributes.py); of `known`, every name of what the picture shows, and `readings`, all that was read off it.
    """
    columns = {}
    for column, concept in enumerate(batch["concept"]):
        columns.setdefault(concept, []).append(column)
    truth = torch.full((len(batch["known"]), len(batch["concept"])), FALSE, dtype=torch.int8)
    for row, known in enumerate(batch["known"]):
        truth[row, [column for name in known for column in columns.get(name, ())]] = TRUE
    for key in {key for said in batch["said"] for key in said}:
        shown, said = ([words.get(key) for words in batch[name]] for name in ("readings", "said"))
        number = {word: k for k, word in enumerate({*shown, *said} - {None})} | {None: -1}
        shown, said = (torch.tensor([number[word] for word in words]) for words in (shown, said))        # (B,)
        unclear = (shown[:, None] < 0) & (said >= 0)
        wrong = (shown[:, None] >= 0) & (said >= 0) & (shown[:, None] != said)
        truth[unclear & (truth == TRUE)] = UNKNOWN
        truth[wrong] = FALSE
    return truth

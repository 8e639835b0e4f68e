"""Which captions of a batch are true of which of its pictures: a contrastive loss must push apart only what is false."""

import torch

TRUE, UNKNOWN, FALSE = 1, 0, -1
READ_BY_TRUTH = ("concept", "said", "known", "readings")


def truth_of(batch):
    """int8 (B, B): whether caption j is true of picture i.

    It is false where it names what the picture is not known as, or says a reading that the picture shows otherwise ("a
    red car" of a blue one); unknown where the name is right and the picture has no clear reading of what is said.

    batch: B each of `concept`, what the captions name, and `said`, the readings in them ({"colour": "red"}, see
    attributes.py); of `known`, every name of what the picture shows, and `readings`, all that was read off it.
    """
    place = {concept: k for k, concept in enumerate(dict.fromkeys(batch["concept"]))}
    known = [(row, place[name]) for row, names in enumerate(batch["known"]) for name in names if name in place]
    of_concept = torch.full((len(batch["known"]), len(place)), FALSE, dtype=torch.int8)                       # (B, K)
    of_concept[tuple(torch.tensor(known, dtype=torch.long).reshape(-1, 2).T)] = TRUE
    truth = of_concept[:, [place[concept] for concept in batch["concept"]]]                                   # (B, B)
    for key in {key for said in batch["said"] for key in said}:
        shown, said = ([words.get(key) for words in batch[name]] for name in ("readings", "said"))
        number = {word: k for k, word in enumerate({*shown, *said} - {None})} | {None: -1}
        shown, said = (torch.tensor([number[w] for w in words], dtype=torch.int16) for words in (shown, said))   # (B,)
        unclear = (shown < 0)[:, None] & (said >= 0)
        wrong = (shown >= 0)[:, None] & (said >= 0) & (shown[:, None] != said)
        truth.masked_fill_(unclear & (truth == TRUE), UNKNOWN).masked_fill_(wrong, FALSE)
    return truth

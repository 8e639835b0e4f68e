"""What the pictures of a caption look like on average, to CLIP's image tower."""

import torch
import torch.nn.functional as F

from ..errors import UserError

STRESS = 4  # how often what is said of a picture counts: CLIP sees what a thing is, and its colour but faintly


class MeanEmbeddings:
    """The mean direction of the pictures that a caption of a labelled set is true of.

    Of a name or noun, it is the mean over its classes of their pictures' mean: a class with many pictures does not speak for
    the others. For each reading that the caption says ("red"), it is moved by STRESS times how pictures that show it differ, on
    average, from their class: said once, a prior hardly hears it. Such means are prototypes (Snell et al. 2017, equation 1):
    what they lose by being rough they gain by not knowing single pictures by heart.

    table: a labelled Table with its embeddings.

    Raises:
        UserError: a set without labels.
    """

    def __init__(self, table):
        if table is None or table.labels is None:
            raise UserError("means of embeddings are for labelled sets in memory: choose another, or data.in_memory=true")
        embeds, captions = F.normalize(table.image_embed[:, 0].float(), dim=-1), table.class_captions            # (N, D)
        counts = torch.bincount(table.labels, minlength=len(captions.names))                                        # (K,)
        sums = torch.zeros(len(counts), embeds.shape[1]).index_add(0, table.labels, embeds)
        of_class = sums / counts[:, None].clamp(min=1)                                                            # (K, D)
        classes, showing = {}, {}
        for label in counts.nonzero().flatten().tolist():
            for concept in captions.concepts(label):
                classes.setdefault(concept, []).append(label)
        for row, readings in enumerate(table.readings or ()):
            for reading in readings.items():
                showing.setdefault(reading, []).append(row)
        self.of_concept = {concept: of_class[labels].mean(dim=0) for concept, labels in classes.items()}
        self.unseen = torch.zeros(embeds.shape[1])
        self.moved_by = {r: STRESS * (embeds[rows] - of_class[table.labels[rows]]).mean(dim=0) for r, rows in showing.items()}

    def __call__(self, batch):
        """The mean (B, D), of no particular length, for each caption of a batch: of its `concept` and of what is `said`.

        Zeros where nothing in the table is called so, as some of what is held out may be.
        """
        return torch.stack([self._of(concept, said) for concept, said in zip(batch["concept"], batch["said"])])

    def _of(self, concept, said):
        if concept not in self.of_concept:
            return self.unseen
        return sum((self.moved_by[r] for r in said.items() if r in self.moved_by), self.of_concept[concept])

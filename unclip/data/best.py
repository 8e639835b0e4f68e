"""Keep the pictures that show what their caption says, as CLIP sees it (CLIP-score filtering: Schuhmann et al. 2021,
LAION-400M; Gadre et al. 2023, DataComp, section 3.4)."""

import torch
import torch.nn.functional as F

from .texts import mean_texts


def best_rows(table, clip, share):
    """The rows (LongTensor, ascending) of the `share` of a table whose pictures are nearest to their captions.

    table: a Table with its embeddings; share: in (0, 1]. Of a labelled set each class keeps its own share, at least
    one picture, so that no class is lost for being hard.
    """
    nearness = clip_scores(table, clip)                                                                  # (N,)
    groups = [torch.arange(len(table))]
    if table.labels is not None:
        groups = [(table.labels == label).nonzero()[:, 0] for label in table.labels.unique()]
    kept = [rows[nearness[rows].argsort(descending=True)[: max(1, int(share * len(rows)))]] for rows in groups]
    return torch.cat(kept).sort().values


def clip_scores(table, clip):
    """The cosine (N,) of each picture's embedding with its caption's: the mean over a picture's captions, or over the
    templates filled with the first name of its class."""
    if table.labels is None:
        captions, of_row = table.captions, torch.arange(len(table))
    else:
        known, of_row = table.class_captions, table.labels
        captions = [[known.caption(names[0], template) for template in known.templates] for names in known.names]
    images = F.normalize(table.image_embed[:, 0].float(), dim=-1)                                        # (N, D)
    return (images * mean_texts(captions, clip).cpu()[of_row]).sum(dim=-1)

"""What the picture of a prompt could be mistaken for: the classes that a model knows and that the prompt does not name."""

import torch

from .data.captions import words_of

TEMPLATE = "a photo of {a}."


class Rivals:
    """The classes of a model whose pictures are labelled, as CLIP reads their names.

    An embedding that is near to "a photo of an ox" may be nearer still to "a photo of a bison", and its picture shows one.
    So where several embeddings or pictures are drawn, they are told apart by their margins to the prompt's rivals: see
    `prior.margins`.

    Args:
        classes: ClassCaptions, of which names and nouns are read.
        read: from a list of C captions to their text directions (C, D); asked once, when they are first needed.
    """

    def __init__(self, classes, read):
        self.captions = [classes.caption(names[0], TEMPLATE) for names in classes.names]
        self.read, self.embed, self.named_by = read, None, {}
        for label in range(len(self.captions)):
            for name in classes.concepts(label):
                self.named_by.setdefault(tuple(words_of(name)), set()).add(label)
        self.longest = max([1, *map(len, self.named_by)])

    def of(self, prompts):
        """The text directions of all C classes, (C, D), and which of them are rivals of each of B prompts, bool (B, C): those
        that it does not name; none, where it names no class. (None, None), where no prompt names any."""
        named = [self.named(prompt) for prompt in prompts]
        if not any(named):
            return None, None
        if self.embed is None:
            self.embed = self.read(self.captions)
        against = torch.tensor([[bool(own) and label not in own for label in range(len(self.captions))] for own in named])
        return self.embed, against.to(self.embed.device)

    def named(self, prompt):
        """The classes (numbers) that a prompt names, by a name or a noun above it, in the singular or with an s. Of the names
        that begin at a word the longest counts: "a soda bottle" is no beer bottle."""
        words, found, at = words_of(prompt), set(), 0
        while at < len(words):
            for length in range(min(self.longest, len(words) - at), 0, -1):  # ends at 1, where nothing is found
                if labels := self.called(words[at : at + length]):
                    found |= labels
                    break
            at += length
        return found

    def called(self, words):
        """The classes whose name these words are, the last perhaps in the plural."""
        *first, last = words
        forms = (last, last.removesuffix("s"), last.removesuffix("es"))
        return next((labels for form in forms if (labels := self.named_by.get((*first, form)))), set())

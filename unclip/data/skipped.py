"""What of a data set cannot be used: why, how often, and where first."""

from ..errors import UserError, first_line

ENOUGH = 1000  # samples that must have been seen before their share of bad ones says something


class Bad(Exception):
    """A sample, or the rest of a shard, that cannot be used.

    kind: "no picture", "not a picture", "truncated picture", "too small", "too large", "no caption", "no label",
    "no embedding" or "duplicate key" of a sample; "shard cut off" or "source" of a shard, the last where it cannot be fetched.
    """

    def __init__(self, kind, reason):
        super().__init__(reason)
        self.kind = kind


class Skipped:
    """Counts what could not be read, by kind, and remembers the first of each."""

    def __init__(self):
        self.counts, self.firsts = {}, {}

    @property
    def count(self):
        """How much was skipped in all."""
        return sum(self.counts.values())

    @property
    def first(self):
        """Where the first of all was, and what was wrong with it; None: there is none."""
        return next(iter(self.firsts.values()), None)

    def __call__(self, error, where=None):
        """Note an error, and where it was. What is no Bad counts as "unreadable"."""
        kind, place = getattr(error, "kind", "unreadable"), f"{where}: " if where else ""
        self.add({kind: 1}, {kind: place + first_line(error)})

    def add(self, counts, firsts):
        """Add to the numbers by kind, and, for kinds that are new, what the first was."""
        for kind, number in counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + number
            self.firsts.setdefault(kind, firsts[kind])

    def taken(self):
        """What was counted so far, as another Skipped; this one begins anew."""
        other = Skipped()
        other.add(self.counts, self.firsts)
        self.counts, self.firsts = {}, {}
        return other

    def table(self):
        """A line of the kinds, the most frequent first: "2 too small (first: PLACE: REASON); 1 no caption (first: ...)"."""
        kinds = sorted(self.counts, key=self.counts.get, reverse=True)
        return "; ".join(f"{self.counts[kind]} {kind} (first: {self.firsts[kind]})" for kind in kinds)

    def report(self, say=print):
        if self.count:
            say(f"skipped {self.count} corrupt sample(s) or shard end(s): {self.table()}")

    def check(self, good, max_bad):
        """Raises UserError where more than a share `max_bad` of at least ENOUGH samples is bad, `good` ones being good."""
        seen = good + self.count
        if seen >= ENOUGH and self.count > max_bad * seen:
            raise UserError(
                f"{self.count} of {seen} samples are bad, more than data.max_bad={max_bad:g} allows: mend the data, or raise "
                f"it: {self.table()}"
            )

"""What of a data set cannot be used: why, how often, and where first."""

from ..errors import UserError, first_line

ENOUGH = 1000  # samples that must have been seen before their share of bad ones says something
ENOUGH_SHARDS = 100  # of shards the same; where there are fewer, all of them
LATEST = 1000  # shards, at most, of a stream whose last reading is remembered: a server that dies late shows in these
OF_SHARDS = ("source", "shard cut off")  # the kinds that end a shard


class Bad(Exception):
    """A sample, or the rest of a shard, that cannot be used.

    kind: "no picture", "not a picture", "truncated picture", "too small", "too large", "no caption", "no label",
    "no embedding" or "duplicate key" of a sample; "shard cut off" or "source" of a shard, the last where it cannot be fetched.
    """

    def __init__(self, kind, reason):
        super().__init__(reason)
        self.kind = kind


class Skipped:
    """Counts what could not be read, by kind, and remembers the first of each.

    shards: {shard: whether it was lost or cut off when it was last read}, the latest last.
    """

    def __init__(self):
        self.counts, self.firsts, self.shards = {}, {}, {}

    @property
    def count(self):
        """How much was skipped in all."""
        return sum(self.counts.values())

    @property
    def shard_ends(self):
        """How often a shard was lost or cut off."""
        return sum(self.counts.get(kind, 0) for kind in OF_SHARDS)

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

    def over(self, shard, lost):
        """Note that a shard was read to its end, or `lost`: cut off, or not to be had."""
        self.shards.pop(shard, None)
        self.shards[shard] = lost

    def join(self, other):
        """Add what another Skipped has met after this one; of the shards the LATEST are kept."""
        self.add(other.counts, other.firsts)
        for shard, lost in other.shards.items():
            self.over(shard, lost)
        for shard in list(self.shards)[:-LATEST]:
            del self.shards[shard]

    def taken(self):
        """What was counted so far, as another Skipped; this one begins anew."""
        other = Skipped()
        other.join(self)
        self.counts, self.firsts, self.shards = {}, {}, {}
        return other

    def table(self):
        """A line of the kinds, the most frequent first: "2 too small (first: PLACE: REASON); 1 no caption (first: ...)"."""
        kinds = sorted(self.counts, key=self.counts.get, reverse=True)
        return "; ".join(f"{self.counts[kind]} {kind} (first: {self.firsts[kind]})" for kind in kinds)

    def report(self, say=print):
        if self.count:
            say(f"skipped {self.count} corrupt sample(s) or shard end(s): {self.table()}")

    def check(self, good, max_bad, shards):
        """Whether the data will do; good: how many samples were; shards: how many there are in all.

        Raises:
            UserError: more than a share `max_bad` of at least ENOUGH samples is bad; or of the shards more than one, and more
                than this share, is lost. As long as these are less than ENOUGH_SHARDS, others may turn out to be whole.
        """
        seen, lost = good + self.count, sum(self.shards.values())
        if seen >= ENOUGH and self.count > max_bad * seen:
            wrong = f"{self.count} of {seen} samples are bad"
        elif lost > max(1, max_bad * max(len(self.shards), min(ENOUGH_SHARDS, shards))):
            wrong = f"{lost} of the last {len(self.shards)} shards are lost or cut off"
        else:
            return
        raise UserError(f"{wrong}, more than data.max_bad={max_bad:g} allows: mend the data, or raise it: {self.table()}")

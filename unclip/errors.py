"""The one exception that means: the input is at fault, and this line says what to do."""

import difflib

LONGEST = 1000


class UserError(Exception):
    """Bad input. Its message is one line that says what to do; scripts print it and end with exit code 2.

    Whatever names it quotes from files: what does not print (line breaks, a terminal's commands) is escaped, and beyond
    LONGEST characters it is cut.
    """

    def __init__(self, message):
        text = str(message)
        text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def nearest(word, known):
    """' (did you mean X?)' for the known word nearest to `word`, or '' where none is near."""
    close = difflib.get_close_matches(str(word)[:100], [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def first_line(error, count=1):
    """The message of any error as one line: the first `count` of its lines that are not empty, or else its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:count])[:300] if lines else type(error).__name__

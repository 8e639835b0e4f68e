"""The one exception that means: the input is at fault, and this line says what to do."""

import difflib


class UserError(Exception):
    """Bad input. Its message is one line that says what to do; scripts print it and end with exit code 2."""


def nearest(word, known):
    """' (did you mean X?)' for the known word nearest to `word`, or '' where none is near."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""

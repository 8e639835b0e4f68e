"""Whether what a benchmark is asked for can be measured."""

from ..errors import UserError


def at_least_one(**asked):
    """Raises UserError where a number is below 1, and says all of them: at_least_one(rounds=5, threads=0).

    None is not asked for.
    """
    asked = {what: number for what, number in asked.items() if number is not None}
    if min(asked.values()) < 1:
        numbers = ", ".join(f"{number} {what}" for what, number in asked.items())
        raise UserError(f"{numbers}: at least 1{' of each' if len(asked) > 1 else ''}")

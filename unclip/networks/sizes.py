"""Numbers of which networks are made, checked before anything is made of them: a config may come from anywhere."""

LARGEST = 65_536


def check_sizes(least=1, **sizes):
    """Raises ValueError for what is no whole number from `least` to LARGEST, nor a list of such, nor None (left out)."""
    for name, value in sizes.items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if number is not None and (type(number) is not int or not least <= number <= LARGEST):
                raise ValueError(f"{name}={str(value)[:60]}: choose whole numbers from {least} to {LARGEST:,}")

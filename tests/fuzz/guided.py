"""The same readers, led by what their code does with an input: for who has atheris (pip install atheris; no part of the tests).

    PYTHONPATH=. python tests/fuzz/guided.py prompt|yaml|picture -max_total_time=600
"""

import sys

import atheris

with atheris.instrument_imports(include=["unclip.prompts", "unclip.config", "unclip.data.images", "yaml", "PIL"]):
    from unclip.config import read_yaml
    from unclip.data.images import decode
    from unclip.errors import UserError
    from unclip.prompts import parsed


def prompt(content):
    try:
        parsed(content.decode("utf-8", "surrogateescape"))
    except UserError:
        pass


def yaml(content):
    try:
        read_yaml(content.decode("utf-8", "replace"))
    except ValueError:
        pass


def picture(content):
    try:
        decode(content, 8)
    except Exception as error:
        assert not isinstance(error, MemoryError)


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], {"prompt": prompt, "yaml": yaml, "picture": picture}[sys.argv[1]])
    atheris.Fuzz()

"""Typed configs: a YAML file and `key=value` overrides in, a checked object out, or one line that says what is wrong.

The types are pydantic models. A part whose options are a constructor's keywords (a network, a prior, a decoder) takes
them from that signature (`signature_model`), so that they are written once.
"""

import inspect
import re
import reprlib
from typing import Optional, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from .errors import UserError, nearest
from .files import new_file, read_text

MOST_VALUES = 10_000  # in a config, what its aliases repeat counted as often as it is repeated
MOST_BYTES = 256_000  # of it: the reader takes seconds for as much
NO_TEXT = re.compile("[\0\ud800-\udfff]")  # characters that no path, and no file of text, can have
QUOTED = reprlib.Repr()
QUOTED.maxstring = QUOTED.maxother = 60


class Strict(BaseModel):
    """A config whose unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)


def signature_model(constructor, *, leave_out=(), may_miss=(), **replace):
    """A `Strict` type with a constructor's keyword arguments as fields; `replace` gives other types for some.

    may_miss: required arguments that a config may leave out, None then, since they follow from something else.
    """
    fields = {}
    for name, parameter in inspect.signature(constructor).parameters.items():
        if name in ("self", *leave_out) or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        annotation = replace.get(name, parameter.annotation)
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (Optional[annotation], None) if name in may_miss else (annotation, default)
    return create_model(constructor.__name__ + "Options", __base__=Strict, **fields)


def load_config(kind, path, overrides=()):
    """Read a YAML config as the type `kind`, with overrides such as "optimizer.lr=1e-3".

    Raises:
        UserError: no such file, no YAML or too much of it, an unknown key (names the nearest right one), or a wrong type.
    """
    try:
        values = read_yaml(read_text(path, MOST_BYTES))
    except OSError:
        raise UserError(f"no config file {path}: see configs/") from None
    except ValueError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"--set {override}: write it as key=value, e.g. optimizer.lr=1e-3")
        set_key(values, key.split("."), parse(value))
    return check(kind, values, path)


def set_key(values, path, value):
    """Set a nested key, making the sections on the way where they are missing."""
    for name in path[:-1]:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    values[path[-1]] = value


def parse(text):
    """A value as YAML reads it. (Numbers such as 1e-3, which YAML takes for text, become numbers where one belongs.)"""
    try:
        return read_yaml(text)
    except ValueError:
        return text


def read_yaml(text):
    """What a YAML text holds: plain values, lists and dicts.

    Raises:
        ValueError: it is no YAML, has a null or half a character in it, or more than MOST_VALUES values: aliases of aliases make
            a few lines into billions.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        around, count = [root], 0
        while around:
            node = around.pop()
            inside = node if isinstance(node, tuple) else node.value if isinstance(node, yaml.CollectionNode) else ()
            count += len(inside)  # a dict's are pairs
            if isinstance(node, yaml.ScalarNode) and NO_TEXT.search(node.value):
                raise ValueError("it has a null, or half a character, in it")
            if count > MOST_VALUES:
                raise ValueError(f"it has more than {MOST_VALUES:,} values")
            around += inside
        return None if root is None else loader.construct_document(root)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # a date or a number that is none fails in ways of its own
        raise ValueError(str(error)) from None


def check(kind, values, source="config"):
    """`values` as the type `kind`. Raises UserError with one line for the first thing wrong."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        place = ".".join(str(part) for part in first["loc"])[:100]
        if first["type"] == "extra_forbidden":
            known = fields_at(kind, first["loc"][:-1])
            raise UserError(f"{source}: unknown key {place!r}{nearest(first['loc'][-1], known)}") from None
        if first["type"] == "missing":
            raise UserError(f"{source}: {place!r} is missing") from None
        if first["type"] == "value_error":  # a check of ours, which names the setting itself
            raise UserError(f"{source}: {first['ctx']['error']}") from None
        raise UserError(f"{source}: {place} = {quoted(first['input'])}: {first['msg']}") from None


def quoted(value):
    """A value as it is quoted in a message: shortened, and no number of thousands of digits, which Python does not write."""
    try:
        text = QUOTED.repr(value)
    except ValueError:
        text = "a number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def fields_at(kind, path):
    """The field names of the section at `path` inside a config type."""
    for name in path:
        annotation = kind.model_fields[name].annotation if name in kind.model_fields else None
        choices = [annotation, *get_args(annotation)]
        kind = next((c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if kind is None:
            return []
    return list(kind.model_fields)


def save_config(config, path):
    """Write a config as YAML, all defaults but None filled in; `load_config` reads it again as the same config."""
    text = yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False)
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

"""OpenCLIP itself. The only file that imports open_clip: when it is asked to, and so that it fails in one line.

Importing it takes longer than drawing a picture: with it come torchvision, timm and transformers.
"""

import contextlib
import logging

from ..errors import UserError, first_line
from ..operators import declare_operators

TOKENIZER_SETTINGS = {"clean", "strip_sep_token", "language", "reduction_mask", "context_length", "cache_dir", "tokenizer_mode"}


def import_open_clip():
    """The module open_clip, also beside PyTorch's CPU build (see operators.py)."""
    declare_operators()
    import open_clip

    return open_clip


@contextlib.contextmanager
def safetensors_only(what):
    """While it lasts, OpenCLIP reads no weights but safetensors.

    It takes safetensors where it finds them, and falls back to a pickle in silence: on the hub, at an address, and in
    a folder where the pickle has the name that it prefers. (Its "openai" tags are safetensors on the hub.)
    """
    factory = import_open_clip().factory
    load_checkpoint = factory.load_checkpoint

    def guarded(model, checkpoint_path, *args, **kwargs):
        refuse_pickle(checkpoint_path, what)
        return load_checkpoint(model, checkpoint_path, *args, **kwargs)

    factory.load_checkpoint = guarded
    try:
        yield
    finally:
        factory.load_checkpoint = load_checkpoint


@contextlib.contextmanager
def no_code(what):
    """While it lasts, OpenCLIP makes no tokenizer or text tower of Hugging Face's that needs code from outside.

    What a config says in `tokenizer_kwargs` goes to the tokenizer as it is: `trust_remote_code` there would run a file of the
    folder, and `bpe_path` read any file.
    """
    factory, transformers = import_open_clip().factory, remote_code()
    own, seconds = (factory.HFTokenizer, factory.SimpleTokenizer), transformers and transformers.TIME_OUT_REMOTE_CODE

    def known(kwargs):
        if strange := sorted(kwargs.keys() - TOKENIZER_SETTINGS):
            raise UserError(f"{what} asks for a tokenizer with {strange[0]!r}, which is not let through: choose another CLIP")
        return kwargs

    factory.HFTokenizer = lambda name, **kwargs: own[0](name, **known(kwargs), trust_remote_code=False)
    factory.SimpleTokenizer = lambda **kwargs: own[1](**known(kwargs))
    if transformers:
        transformers.TIME_OUT_REMOTE_CODE = 0  # it would ask on the terminal whether to run the code
    try:
        yield
    finally:
        factory.HFTokenizer, factory.SimpleTokenizer = own
        if transformers:
            transformers.TIME_OUT_REMOTE_CODE = seconds


def remote_code():
    """The module of transformers that runs code from outside, if it is asked to; None without transformers."""
    try:
        from transformers import dynamic_module_utils
    except ImportError:
        return None
    return dynamic_module_utils


def refuse_pickle(file, what):
    if not str(file).endswith(".safetensors"):
        raise UserError(f"{what} comes as {file}, but only safetensors are read: choose other weights, or remove it")


@contextlib.contextmanager
def refusals(what):
    """OpenCLIP's many ways to fail, as one line that names the model; its log lines are kept from the screen."""
    disabled, handlers = logging.root.manager.disable, logging.root.handlers[:]
    logging.disable(logging.ERROR)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot load {what} ({first_line(error)}): copy or fetch it again") from error
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers  # `logging.info`, as OpenCLIP calls it, sets up a handler

"""A part from foreign tensors, and foreign tensors from a part."""

import torch

from ..bare import bare
from ..errors import UserError, first_line

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def on_meta(constructor, what, **options):
    """A part without weights: shapes alone, no memory.

    Raises:
        UserError: the options describe none.
    """
    try:
        with bare():
            return constructor(**options)
    except Exception as error:  # what a foreign file says can be wrong in any way
        raise UserError(f"{what} describes no {constructor.__name__}: {first_line(error)}") from error


def fill(part, *sources, ignore=()):
    """Give a part on the meta device its weights, tensor by tensor, in the type that they have; it comes back in eval mode.

    sources: pairs of rules (of names.py) and the `Tensors` that they read; together they name each tensor of the part
    once. ignore: keys there that are no weights.

    Raises:
        UserError: a tensor is missing, left over, or has another shape; it is named.
    """
    wanted, state = part.state_dict(), {}
    for rules, tensors in sources:
        for rule in rules:
            pieces = [tensors[key] for key in rule.theirs]
            if rule.ours not in wanted:
                raise UserError(f"{tensors.path} has {rule.theirs[0]}, which this {type(part).__name__} has not")
            state[rule.ours] = shaped(rule.to_ours, pieces, wanted[rule.ours].shape, f"{tensors.path}: {rule.theirs[0]}")
        left = sorted(set(tensors.keys()) - {key for rule in rules for key in rule.theirs} - set(ignore))
        if left:
            raise UserError(f"{tensors.path} has {left[0]}, which this {type(part).__name__} has not: it is another model")
    part.load_state_dict(state, assign=True)
    return part.eval()


def shaped(to_ours, pieces, shape, name):
    """Our tensor from foreign ones. Raises UserError where it has not our shape; axes of length 1 are no difference."""
    wrong = f"{name} is {'x'.join(map(str, pieces[0].shape))}, which makes no {'x'.join(map(str, shape))}: it is another model"
    if pieces[0].dtype not in FLOATS:
        raise UserError(f"{name} is of {str(pieces[0].dtype).removeprefix('torch.')}: only plain floating-point weights are read")
    try:
        value = to_ours(*pieces)
    except Exception:  # einops and torch, each in its words
        raise UserError(wrong) from None
    if [n for n in value.shape if n != 1] != [n for n in shape if n != 1]:
        raise UserError(wrong)
    return value.reshape(shape)


def spread(part, rules):
    """A part's tensors under the rules' foreign names: {key: tensor}."""
    state = part.state_dict()
    return {key: t.contiguous() for rule in rules for key, t in zip(rule.theirs, rule.to_theirs(state[rule.ours]))}

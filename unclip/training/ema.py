"""The exponential moving average of a model's weights."""

from contextlib import contextmanager

import torch

from .sharding import alike, in_pieces, live_state, whole, whole_state


class EMA:
    """Keeps state = decay * state + (1 - decay) * weights, with a shorter memory in the first steps.

    Batch norm's running statistics are averaged alike: those of the live weights do not fit the averaged ones. What is
    no float (its counter of batches) is copied.

    model: the one that trains; decay: in [0, 1); copy: of a model whose weights are in pieces, one that is whole, which
    `averaged` gives; None in a process that does not evaluate.
    """

    def __init__(self, model, decay, copy=None):
        self.decay, self.copy = decay, copy
        self.begin(model)

    def begin(self, model):
        """Take the weights of a model as they are, with no memory of others."""
        self.steps = 0
        self.state = {k: v.clone() for k, v in live_state(model).items()}
        self._floats = [k for k, v in self.state.items() if v.is_floating_point()]
        self._others = [k for k, v in self.state.items() if not v.is_floating_point()]

    @torch.no_grad()
    def update(self, model):
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        live = live_state(model)
        torch._foreach_lerp_([self.state[k] for k in self._floats], [live[k] for k in self._floats], 1 - decay)
        for name in self._others:
            self.state[name].copy_(live[name])

    @torch.no_grad()
    def distance(self, model):
        """How far the live weights are from the averaged ones, as a share of these: |weights - state| / |state|, a float."""
        live = live_state(model)
        pairs = [(self.state[k], live[k]) for k in self._floats]
        apart = sum(whole((a - b).square().sum().double()) for a, b in pairs)
        size = sum(whole(a.square().sum().double()) for a, _ in pairs)
        return float((apart / size.clamp(min=1e-30)).sqrt())

    def load(self, state, steps):
        """Take another state, on this one's device and in its memory format. Raises KeyError or RuntimeError."""
        for name, value in self.state.items():
            value.copy_(alike(state[name], value))
        self.steps = steps

    @contextmanager
    def averaged(self, model):
        """Inside the block there is a model with the averaged weights, in eval mode: this one, or where its weights are in
        pieces, the whole copy, to which all processes have to come together."""
        if in_pieces(self.state):
            with self._whole_copy(model) as copy:
                yield copy
            return
        live, training = {k: v.clone() for k, v in model.state_dict().items()}, model.training
        model.load_state_dict(self.state)
        model.eval()
        try:
            yield model
        finally:
            model.load_state_dict(live)
            model.train(training)

    @contextmanager
    def _whole_copy(self, model):
        state = whole_state(self.state, model)
        if self.copy is None:
            yield None
            return
        self.copy.load_state_dict(state)
        self.copy.eval().to(next(iter(self.state.values())).device)
        try:
            yield self.copy
        finally:
            self.copy.to("cpu")

"""The exponential moving average of a model's weights."""

from contextlib import contextmanager

import torch


class EMA:
    """Keeps state = decay * state + (1 - decay) * weights, with a shorter memory in the first steps.

    Batch norm's running statistics are averaged alike: those of the live weights do not fit the averaged ones. What is
    no float (its counter of batches) is copied.
    """

    def __init__(self, model, decay):
        self.decay, self.steps = decay, 0
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self._floats = {k for k, v in self.state.items() if v.is_floating_point()}

    @torch.no_grad()
    def update(self, model):
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        live = model.state_dict()
        torch._foreach_lerp_([self.state[k] for k in self._floats], [live[k] for k in self._floats], 1 - decay)
        for name in self.state.keys() - self._floats:
            self.state[name].copy_(live[name])

    def load(self, state, steps):
        """Take another state, on this one's device and in its memory format. Raises KeyError or RuntimeError."""
        for name, value in self.state.items():
            value.copy_(state[name])
        self.steps = steps

    @contextmanager
    def averaged(self, model):
        """Inside the block the model has the averaged weights and is in eval mode."""
        live, training = {k: v.clone() for k, v in model.state_dict().items()}, model.training
        model.load_state_dict(self.state)
        model.eval()
        try:
            yield model
        finally:
            model.load_state_dict(live)
            model.train(training)

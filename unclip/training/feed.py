"""Batches for a GPU: prepared by a thread, and copied there, while the batch before them trains."""

from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread

import torch


@contextmanager
def fed(batches, device):
    """Batches, as those who train on `device` take them: inside the block, anything with `.at(step)`, and with `.state()` and
    `.load(state)` to go on where they were (see StreamBatches).

    For a GPU they come prepared ahead and lie on it. On the CPU they come as they are: a thread would only take a core from
    the training.
    """
    if device.type != "cuda":
        yield batches
    else:
        with Ahead(OnGPU(batches, device)) as ahead:
            yield ahead


class Ahead:
    """Batches (see `fed`), inside a `with`, whose next one a thread prepares while the last one is in use.

    `at(step)` gives what the source gives for that step, and raises what it raises for it. The step after it is prepared
    at once; where another one is asked for, that one is prepared then. (A source that goes on whatever the step, such as
    StreamBatches, loses the one in between.) `state()` is the source's as of the last batch that was given. The source is
    asked by that thread alone. It is no executor's: processes forked from one, such as a DataLoader's, end in an error.
    """

    def __init__(self, batches):
        self.batches, self._asked = batches, SimpleQueue()
        self._thread = Thread(target=self._work, name="batches", daemon=True)
        self._step, self._next, self._state = None, None, None

    def at(self, step):
        due = self._next if step == self._step else self._prepared(step)
        batch, self._state = due.result()
        self._step, self._next = step + 1, self._prepared(step + 1)
        return batch

    def state(self):
        return self._ask(self.batches.state).result() if self._state is None else self._state

    def load(self, state):
        self._ask(lambda: self.batches.load(state)).result()
        self._step, self._state = None, None  # what was prepared is of another place

    def _prepared(self, step):
        return self._ask(lambda: (self.batches.at(step), self.batches.state()))

    def _ask(self, task):
        due = Future()
        self._asked.put((task, due))
        return due

    def _work(self):
        for task, due in iter(self._asked.get, None):
            try:
                due.set_result(task())
            except BaseException as error:  # it is for whoever asks for the batch
                due.set_exception(error)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._asked.put(None)
        self._thread.join()


class OnGPU:
    """Batches (dicts) with their tensors on a GPU. Made by the thread that trains, and then used by another one.

    What is copied or computed for a batch, such as its captions' encodings, has a stream of its own, so that it goes beside
    the training; whoever gets the batch need not wait for it.
    """

    def __init__(self, batches, device):
        self.batches, self.device = batches, device
        self.training, self.stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        self.stream.wait_stream(self.training)  # it may have made what the batches are made with

    def at(self, step):
        with torch.cuda.stream(self.stream):
            batch = {key: self._placed(value) for key, value in self.batches.at(step).items()}
        self.stream.record_event(torch.cuda.Event(blocking=True)).synchronize()  # asleep, not spinning
        return batch

    def state(self):
        return self.batches.state()

    def load(self, state):
        self.batches.load(state)

    def _placed(self, value):
        if not torch.is_tensor(value):
            return value
        if not value.is_cuda:  # from pinned memory: other memory cannot be copied beside what else the GPU does
            value = value.pin_memory().to(self.device, non_blocking=True)
        value.record_stream(self.training)  # so that its memory is not used anew before the training is through with it
        return value

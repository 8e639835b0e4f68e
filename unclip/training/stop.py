"""Ctrl-C, SIGTERM, and the SIGUSR1 by which schedulers warn, noted and left to the end of the step."""

import signal
import threading
import time

ONE = 1.0  # seconds in which several signals are one: a scheduler and a launcher both tell a process


class Stop:
    """`with Stop() as stop:` inside, the first of these signals sets `stop.asked`; one that comes later acts as ever."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))

    def __enter__(self):
        self.asked, self._since, self._before = False, None, {}
        if threading.current_thread() is threading.main_thread():  # Python sets handlers there alone
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *exc):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if not self.asked:
            self.asked, self._since = True, time.monotonic()
        elif time.monotonic() - self._since > ONE:
            self.__exit__()
            signal.raise_signal(number)

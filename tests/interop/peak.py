"""Run by test_memory.py in a process of its own: what loading, and importing, a model takes.

`python peak.py load|import FOLDER OUT [DTYPE]` prints bytes of anonymous memory at the peak, less those before. The pages of a
mapped file do not count: the system takes them back whenever it likes.
"""

import re
import sys
import threading
from pathlib import Path

from unclip.interop.fill import on_meta
from unclip.interop.importing import import_prior
from unclip.prior import DiffusionPrior


def anonymous():
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def peak_of(run):
    before, seen, over = anonymous(), [0], threading.Event()

    def watch():
        while not over.wait(0.002):
            seen.append(anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    kept = run()
    over.set()
    thread.join()
    del kept
    return max(seen) - before


if __name__ == "__main__":
    what, folder, out, *dtype = sys.argv[1:]
    small = {"text_dim": 8, "text_length": 8, "width": 8, "layers": 1, "heads": 1}
    on_meta(DiffusionPrior, "warm-up", embed_dim=8, transformer=small)  # torch imports much when it first meets the device
    if what == "load":
        print(peak_of(lambda: DiffusionPrior.from_pretrained(folder)))
    else:
        print(peak_of(lambda: import_prior(folder, out, *dtype, clip="ViT-L-14", pretrained="openai")))

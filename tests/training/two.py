"""Trains the toy in this process, one of several: python two.py RUN BATCH_SIZE; writes its weights to RUN.RANK.json."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from training.toys import Batches, Line, config

from unclip.training.loop import train
from unclip.training.processes import process


def main(run, batch_size):
    torch.set_num_threads(1)
    state, model = process(), Line()
    batches = Batches(batch_size, state.process_index, state.num_processes)
    train(model, batches, [batches.at(999)], config(run, batch_size=batch_size, steps=3), export=lambda m: None)
    weights = {k: v.tolist() for k, v in model.state_dict().items() if k != "seen"}
    Path(f"{run}.{state.process_index}.json").write_text(json.dumps([state.num_processes, weights]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
    os._exit(0)  # gloo's threads need not be waited for

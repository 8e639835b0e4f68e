"""What the processes of a test do: python several.py WHAT FOLDER; each writes FOLDER/WHAT.RANK.json.

ddp: trains the toy, then asks for the gradients of a contrastive loss, then is told to stop. sharded: trains a decoder, in
pieces or not. zero: trains decoders, and the toy on batches of which two are harmful, with DeepSpeed or without.
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from conftest import CLIP_CONFIG, D, SIDE, UNET
from training.toys import Batches, Line, config

from unclip.contrastive import ContrastiveCLIP
from unclip.decoder import Decoder
from unclip.errors import UserError
from unclip.openclip.tokenizer import clip_tokenizer
from unclip.training import sharding
from unclip.training.loop import train
from unclip.training.processes import process
from unclip.training.sharding import in_pieces, live_state

TOGETHER, STEPS = 8, 3  # samples of a step in all processes
CAPTIONS = ["a dog", "a cat", "a dog", "a red car", "a car", "a bridge", "a blue car", "a puppy"]


def ddp(folder):
    """Weights of the toy after STEPS steps; the contrastive gradients of this process's share of TOGETHER pairs, averaged as
    DDP does it; how a run ends that only the last process is told to stop."""
    state = process()
    rank, world = state.process_index, state.num_processes
    model, batches = Line(), Batches(TOGETHER // world, rank, world)
    settings = config(folder / f"of{world}", batch_size=TOGETHER // world, steps=STEPS, log_every=1)
    train(model, batches, [batches.at(999)], settings, export=lambda m: None)
    told = Line()
    if rank == world - 1:
        told.harm = lambda seen: os.kill(os.getpid(), signal.SIGUSR1) if seen == 2 else None
    try:
        train(told, batches, [], config(folder / f"told{world}", batch_size=TOGETHER // world), export=lambda m: None)
    except KeyboardInterrupt:
        stopped = True
    else:
        stopped = False
    try:  # the folder that the first of them sees has a finished run
        apart = folder / (f"of{world}" if rank == 0 else "nothing")
        train(Line(), batches, [], config(apart, batch_size=TOGETHER // world, steps=STEPS), export=lambda m: None)
    except UserError as error:
        refused = str(error)
    else:
        refused = None
    weights = {k: v.tolist() for k, v in model.state_dict().items() if k != "seen"}
    gradients = contrastive_gradients(rank, world)
    return {"world": world, "weights": weights, "gradients": gradients, "stopped": stopped, "refused": refused}


def contrastive_gradients(rank, world):
    torch.manual_seed(0)
    model = ContrastiveCLIP({**CLIP_CONFIG, "vision_cfg": {**CLIP_CONFIG["vision_cfg"], "image_size": SIDE, "patch_size": 4}}).train()
    size = TOGETHER // world
    own = slice(rank * size, (rank + 1) * size)
    colours = {"a red car": "red", "a blue car": "blue"}
    batch = {
        "image": torch.randint(0, 256, (TOGETHER, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)[own],
        "caption": CAPTIONS[own],
        "concept": ["car" if "car" in c else c.removeprefix("a ") for c in CAPTIONS][own],
        "known": [["dog", "puppy"] if c in ("a dog", "a puppy") else [c.split()[-1]] for c in CAPTIONS][own],
        "said": [{"colour": colours[c]} if c in colours else {} for c in CAPTIONS][own],
        "readings": [{"colour": colours[c]} if c in colours else {} for c in CAPTIONS][own],
    }
    model.tokenizer = clip_tokenizer(CLIP_CONFIG["text_cfg"]["context_length"])
    model.loss(model.read(batch))[0].mean().backward()
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    if world > 1:
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)
    return [(gradient / world).flatten().tolist() for gradient in gradients]


class Pictures:
    """Batches of pictures and embeddings, by the step and the process alone."""

    def __init__(self, size, rank):
        self.size, self.rank = size, rank

    def at(self, step):
        g = torch.Generator().manual_seed(100 * step + self.rank)
        image = torch.randint(0, 256, (self.size, 3, SIDE, SIDE), generator=g, dtype=torch.uint8)
        return {"image": image, "image_embed": torch.randn(self.size, D, generator=g)}

    def state(self):
        return {"rank": self.rank}

    def load(self, state):
        assert state == {"rank": self.rank}


def decoder_run(folder, steps, **options):
    """Train a small decoder in `folder`, or go on with it: whether it was in pieces, and the averaged weights."""
    torch.manual_seed(0)
    state, exported = process(), {}
    model = Decoder(unet=UNET, image_size=SIDE, embed_dim=D)
    pictures = Pictures(TOGETHER // state.num_processes, state.process_index)
    options = {"log_every": 1, "validate_every": 2, "sample_every": 2, **options}
    settings = config(folder, {"lr": 1e-3}, steps=steps, batch_size=pictures.size, **options)
    train(
        model, pictures, [pictures.at(999)], settings,
        export=lambda m: exported.update({k: v.tolist() for k, v in m.state_dict().items()}),
        sample=sampled,
    )  # fmt: skip
    return {"in_pieces": in_pieces(live_state(model)), "exported": exported}


def sampled(decoder):
    from unclip.data.images import grid, to_pil
    from unclip.diffusion import SeededNoise

    return grid(to_pil(decoder.sample(torch.zeros(2, D), noise=SeededNoise([1, 2]), num_inference_steps=2)), 2)


def sharded(folder):
    """The same decoder in this many processes, in whatever way they were launched."""
    return decoder_run(folder / ("pieces" if os.environ.get("ACCELERATE_USE_FSDP") == "true" else "whole"), STEPS)


def zero(folder):
    """The same decoder in float32 and bfloat16; a run that is begun without DeepSpeed, and goes on with it; the toy."""
    with_it = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    whole = decoder_run(folder / "whole", STEPS)
    anew()
    goes_on = decoder_run(folder / "begun", STEPS if with_it else STEPS - 1)
    anew()
    decoder_run(folder / "half", STEPS, precision="bf16", gradient_checkpointing=True)
    anew()
    toy = Line()
    options = {"steps": 24, "accumulate": 2, "batch_size": TOGETHER // process().num_processes, "log_every": 1}
    batches = Harmful(options["batch_size"], process().process_index, process().num_processes)
    toy_config = config(folder / "toy", {"clip_norm": 0.5}, **options)
    train(toy, batches, [batches.at(999)], toy_config, export=lambda m: None)
    return {**whole, "goes_on": goes_on["exported"]}


class Harmful(Batches):
    """Of the parts of two steps' batches one has a loss that is no number, and one that is far too large."""

    def at(self, step):
        batch = super().at(step)
        return {**batch, "scale": {5: torch.nan, 45: 1e4}.get(step if self.rank == 0 else None, 1.0)}


def anew():
    """Let a second training in these processes choose its precision, too."""
    state = PartialState()
    if state.distributed_type == DistributedType.DEEPSPEED:
        state.distributed_type = DistributedType.MULTI_CPU
    AcceleratorState._reset_state()


def divide_small_weights():
    """ZeRO-3 leaves weights of less than 100,000 numbers whole in each process, which here are all."""
    prepare = sharding.zero.prepare

    def prepare_dividing(accelerator, *args):
        accelerator.deepspeed_plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return prepare(accelerator, *args)

    sharding.zero.prepare = prepare_dividing


def main(what, folder):
    torch.set_num_threads(1)
    Accelerator.end_training = lambda self: None  # it would take the processes apart, before a second training
    divide_small_weights()
    found = {"ddp": ddp, "sharded": sharded, "zero": zero}[what](Path(folder))
    Path(folder, f"{what}{process().num_processes}.{process().process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # gloo's threads need not be waited for

"""What a training would take: parameters, FLOP, memory and GPU-days, before anything is trained or any GPU is there.

    python scripts/plan.py configs/dalle2/prior-h14.yaml
    python scripts/plan.py configs/dalle2/decoder-h14.yaml --gpus 64 --gpu a100-80 --strategy fsdp --batch 16
    python scripts/plan.py configs/pocket/prior.yaml --set clip.name=data/pocket/clip --gpu rtx4090 --json plan.json

The model and its step are run without numbers, so this takes seconds and little memory. Of the memory, `buckets` are what
gradients are sent in, `gathered` the weights that are together for the layer at work, `casts` the weights in half precision
that wait for the backward pass, `frozen` a CLIP or a teacher. Captions are as long as they can be. The time is what the FLOP
take at a share of what the card can do at most (--utilisation), a share that is assumed: measure yours.
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="of any training: prior, decoder, upsampler, CLIP, distillation")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--gpus", type=int, default=1, help="how many there are (default 1)")
    parser.add_argument("--gpu", default="h100", help="a100-40, a100-80, h100 (default), h200, rtx4090")
    parser.add_argument("--strategy", default="ddp", help="how several share the work: ddp (default), fsdp, zero2, zero3")
    parser.add_argument("--batch", type=int, help="samples a pass on each GPU (default: the config's train.batch_size)")
    parser.add_argument("--utilisation", type=float, default=0.4, help="share of the card's peak (default 0.4)")
    parser.add_argument("--json", metavar="FILE", help="write all figures to a file")
    args = parser.parse_args(argv)

    from unclip.plan.plan import plan, save, table

    overrides = args.set + ([] if args.batch is None else [f"train.batch_size={args.batch}"])
    found = plan(args.config, overrides, gpus=args.gpus, gpu=args.gpu, strategy=args.strategy, utilisation=args.utilisation)
    print(*table(found), sep="\n")
    if args.json:
        save(found, args.json)
        print(args.json)


if __name__ == "__main__":
    cli.run(main)

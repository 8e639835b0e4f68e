"""Compute CLIP's embeddings of the pictures in shards ahead of any training, beside the shards.

    python scripts/embed.py --data my/shards --clip ViT-L-14 --pretrained openai
    accelerate launch --multi_gpu scripts/embed.py --data my/shards --clip ViT-L-14 --pretrained openai --texts
    python scripts/embed.py --clip ViT-L-14 --pretrained openai --dry-run --pairs 400e6 --price 2 --gpus 8

The CLIP is told as the config of the training tells it: --unit-variance where that has clip.unit_variance: true. Run again, it
goes on where it was: finished shards are passed over. The last prints what it would take, and writes nothing.
"""

import argparse

from unclip import cli
from unclip.errors import UserError


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="a folder of shards")
    parser.add_argument("--clip", required=True, help="an OpenCLIP folder, a hub id, or an OpenCLIP name")
    parser.add_argument("--pretrained", metavar="TAG", help="of an OpenCLIP name's weights")
    parser.add_argument("--unit-variance", action="store_true", help="where the config has clip.unit_variance: true")
    parser.add_argument("--split", help="of the shards (default: all)")
    parser.add_argument("--texts", action="store_true", help="captions as well: their embeddings and token states")
    parser.add_argument("--workers", type=int, help="processes that decode (default: the cores, or one without a GPU)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (default)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"],
                        help="auto (default): bfloat16 where the hardware computes in it, else float32")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print what it costs, and write nothing")
    dry = parser.add_argument_group("with --dry-run")
    dry.add_argument("--pairs", type=float, metavar="N", help="how many pictures, 400e6 (default: those of --data)")
    dry.add_argument("--rate", type=float, metavar="R", help="pictures a second on a GPU (default: measured here)")
    dry.add_argument("--price", type=float, metavar="DOLLARS", help="of an hour of a GPU")
    dry.add_argument("--gpus", type=int, metavar="N", help="how many (default: 1)")
    args = parser.parse_args(argv)

    if args.workers is not None and args.workers < 0:
        raise UserError(f"--workers is {args.workers}: give 0 or more")
    shared = dict(
        data=args.data, clip_name=args.clip, pretrained=args.pretrained, unit_variance=args.unit_variance, split=args.split,
        texts=args.texts, workers=args.workers, device=args.device, dtype=args.dtype,
    )  # fmt: skip
    plan = dict(pairs=args.pairs, rate=args.rate, price=args.price, gpus=args.gpus)
    if args.dry_run:
        from unclip.embed_cost import cost

        cost(**shared, **{**plan, "gpus": args.gpus if args.gpus is not None else 1})
        return
    given = [name for name, value in plan.items() if value is not None]
    if given:
        raise UserError(f"--{given[0]} is of --dry-run: add that, or leave it out")
    if args.data is None:
        raise UserError("no --data: name a folder of shards")
    from unclip.embed import embed

    embed(**shared)


if __name__ == "__main__":
    cli.run(main)

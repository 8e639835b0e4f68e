"""Zero-shot classification with a CLIP: of a labelled data folder, or of single pictures.

    python scripts/eval_zero_shot.py --model pocket --data runs/data/tiny-imagenet
    python scripts/eval_zero_shot.py --model ViT-B-32 --pretrained laion2b_s34b_b79k --data DIR --json scores.json
    python scripts/eval_zero_shot.py --image FILE [FILE ...] --classes dog cat "school bus"

A data folder is laid out as CLIP-benchmark does: classnames.txt, zeroshot_classification_templates.txt and a folder of
.tar shards a split.
"""

import argparse

from unclip import cli
from unclip.errors import UserError


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="pocket (default), a model or OpenCLIP folder, a hub id, or "
                        "an OpenCLIP name with --pretrained")  # fmt: skip
    parser.add_argument("--pretrained", metavar="TAG", help="the weights of an OpenCLIP name, such as openai")
    parser.add_argument("--data", metavar="DIR", help="a labelled data folder")
    parser.add_argument("--split", default="test")
    parser.add_argument("--classnames", metavar="FILE", help="a name a line, in place of the folder's")
    parser.add_argument("--templates", metavar="FILE", help="a prompt a line, in place of the folder's; {c} stands for "
                        "the name, {a} for the name with its article")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--confusion", metavar="FILE.png", help="draw the confusion matrix there")
    parser.add_argument("--max-images", type=int, metavar="N", help="look at the first N pictures only")
    parser.add_argument("--image", nargs="+", metavar="FILE", help="classify these pictures instead")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="the classes to choose from, with --image")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (default)")
    parser.add_argument("--batch-size", type=int, default=100)
    args = parser.parse_args(argv)

    if bool(args.data) == bool(args.image):
        raise UserError("give either --data DIR, or --image FILE with --classes NAME ...")
    if args.classes and not args.image:
        raise UserError("--classes goes with --image; class names of a data folder are given by --classnames FILE")
    for name in ("split", "classnames", "json", "confusion", "max_images", "batch_size"):
        if args.image and getattr(args, name) != parser.get_default(name):
            raise UserError(f"--{name.replace('_', '-')} goes with --data: leave it out beside --image")

    from unclip.evaluation.zero_shot import classify, evaluate

    if args.image:
        classify(args.model, args.pretrained, args.image, args.classes, args.templates, args.device)
    else:
        evaluate(
            args.model, args.pretrained, args.data, args.split, args.classnames, args.templates, args.json,
            args.confusion, args.device, args.batch_size, args.max_images,
        )  # fmt: skip


if __name__ == "__main__":
    cli.run(main)

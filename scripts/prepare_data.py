"""Turn pictures into WebDataset shards that the training scripts read.

    python scripts/prepare_data.py tiny-imagenet --out runs/data/tiny-imagenet [--source FILE.zip] [--classes FILE]
    python scripts/prepare_data.py folder MY_PICTURES --out runs/data/mine
    python scripts/prepare_data.py imagenet-samples --source FILE.zip --out runs/data/samples
    python scripts/prepare_data.py join runs/data/tiny-imagenet runs/data/samples --out runs/data/joined

What img2dataset writes needs no preparation.
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    tiny = kinds.add_parser("tiny-imagenet", help="Tiny ImageNet (200 classes of 64x64 photographs)")
    tiny.add_argument("--source", help="the zip; without it, it is downloaded from its official address")
    tiny.add_argument("--classes", help="a file of WordNet ids, one a line: only these")
    folder = kinds.add_parser("folder", help="a folder of images with captions")
    folder.add_argument("folder")
    folder.add_argument("--val-share", type=float, default=0.05, help="share of pictures held out (default 0.05)")
    folder.add_argument("--size", type=int, default=512, help="shrink larger pictures to this shorter side")
    samples = kinds.add_parser("imagenet-samples", help="one photograph for each class of ImageNet")
    samples.add_argument("--source", required=True, help="a zip of github.com/EliSchwartz/imagenet-sample-images")
    join = kinds.add_parser("join", help="several labelled sets as one")
    join.add_argument("folders", nargs="+")
    for kind in (tiny, folder, samples, join):
        kind.add_argument("--out", required=True, help="the folder to write")
    args = parser.parse_args(argv)

    if args.kind == "tiny-imagenet":
        from unclip.data.prepare import tiny_imagenet

        tiny_imagenet(args.source, args.out, args.classes)
    elif args.kind == "folder":
        from unclip.data.prepare import image_folder

        image_folder(args.folder, args.out, args.val_share, args.size)
    elif args.kind == "imagenet-samples":
        from unclip.data.imagenet_samples import imagenet_samples

        imagenet_samples(args.source, args.out)
    else:
        from unclip.data.join import join

        join(args.folders, args.out)


if __name__ == "__main__":
    cli.run(main)

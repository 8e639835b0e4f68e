"""Turn pictures into WebDataset shards that the training scripts read.

    python scripts/prepare_data.py tiny-imagenet --out runs/data/tiny-imagenet [--source FILE.zip] [--classes FILE]
    python scripts/prepare_data.py folder MY_PICTURES --out runs/data/mine

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
    for kind in (tiny, folder):
        kind.add_argument("--out", required=True, help="the folder to write")
    args = parser.parse_args(argv)

    from unclip.data import prepare

    if args.kind == "tiny-imagenet":
        prepare.tiny_imagenet(args.source, args.out, args.classes)
    else:
        prepare.image_folder(args.folder, args.out, args.val_share, args.size)


if __name__ == "__main__":
    cli.run(main)

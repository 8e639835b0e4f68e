"""Look into the space between prompt and picture.

    python scripts/explore.py spread "a photo of a dog"                      what the prompt leaves open
    python scripts/explore.py neighbours "a photo of a dog" --pictures DIR   the pictures of a folder that are nearest to it
    python scripts/explore.py components cat.jpg --pictures DIR              cat.jpg from 1, 2, 4, ... principal components

Writes PNGs and prints their paths. Options of drawing are those of generate.py.
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    spread = commands.add_parser("spread", help="what a prompt leaves open to prior and decoder")
    spread.add_argument("prompt")
    spread.add_argument("--num-images", type=int, help="default 8, or as many as there are seeds")

    neighbours = commands.add_parser("neighbours", help="the pictures of a folder nearest to a picture or prompt")
    neighbours.add_argument("item", metavar="ITEM", help="a picture file or a prompt")
    neighbours.add_argument("--pictures", required=True, metavar="DIR", help="the folder of pictures")
    neighbours.add_argument("--count", type=int, default=8, help="default 8")

    components = commands.add_parser("components", help="a picture from few and from many principal components")
    components.add_argument("image")
    components.add_argument("--pictures", required=True, metavar="DIR", help="whose components; the more, the better")
    components.add_argument("--counts", nargs="+", type=int, metavar="N", help="default: 1, 2, 4, ... as many as there are")

    for command in (spread, neighbours, components):
        cli.add_drawing_options(command)
    args = vars(parser.parse_args(argv))
    drawing = cli.drawing(args)

    from unclip import explore

    getattr(explore, args.pop("command"))(**args, **drawing)


if __name__ == "__main__":
    cli.run(main)

"""Draw pictures for prompts.

    python scripts/generate.py "a photo of a dog"
    python scripts/generate.py "a red car" "a school bus" --num-images 8 --seed 7 --out outputs/cars

Writes one PNG an image and a grid, and prints their paths. Same seed, same picture.
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_drawing_options(parser)
    parser.add_argument("prompt", nargs="*", help='may have weights: "a dog:1.2", "a dog AND a beach:0.5"')
    parser.add_argument("--prompts", metavar="FILE", help="a file with a prompt a line")
    parser.add_argument("--num-images", type=int, help="pictures a prompt (default 4, or as many as there are seeds)")
    args = vars(parser.parse_args(argv))
    drawing = cli.drawing(args)

    from unclip.generate import generate

    generate(prompts=args["prompt"], prompt_file=args["prompts"], num_images=args["num_images"], **drawing)


if __name__ == "__main__":
    cli.run(main)

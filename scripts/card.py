"""Draw the pictures of a model's card anew: a grid of prompts, the stages, and a strip for each way to edit a picture.

    python scripts/card.py --out outputs/card
    python scripts/card.py --model runs/mine --prompts my-prompts.txt --pictures my/photographs --out outputs/card
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="pocket (default), a model folder, or a hub id")
    parser.add_argument("--prompts", metavar="FILE", default="data/pocket/prompts.txt", help="a prompt a line, for the grid")
    parser.add_argument("--pictures", metavar="DIR", help="of whose embeddings principal components are taken (default: none)")
    parser.add_argument("--out", default="outputs/card", help="the folder to write to (default: outputs/card)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (default)")
    args = parser.parse_args(argv)

    from unclip.card import card

    card(prompt_file=args.prompts, pictures=args.pictures, model_name=args.model, out=args.out, device=args.device)


if __name__ == "__main__":
    cli.run(main)

"""How often are a model's pictures of a concept named right by zero-shot CLIP classification?

    python scripts/evaluate.py --model pocket --concepts data/pocket/concepts.txt --num-images 200

The judge is the model's own CLIP unless --judge names another; its verdict flatters a model that was guided by it.
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_sampling_options(parser)
    parser.add_argument("--concepts", required=True, metavar="FILE", help="a concept a line")
    parser.add_argument("--num-images", type=int, default=200, help="in all, evenly over the concepts (default 200)")
    parser.add_argument("--judge", help="another CLIP: a folder or an OpenCLIP name")
    parser.add_argument("--pretrained", help="the tag of the judge's weights")
    parser.add_argument("--json", metavar="FILE", help="write all figures here")
    parser.add_argument("--grid", metavar="FILE", help="write a contact sheet here, a row a concept")
    args = parser.parse_args(argv)

    from unclip.evaluation.generated import draw_and_name

    draw_and_name(
        model=args.model,
        concepts=args.concepts,
        num_images=args.num_images,
        seed=args.seed,
        settings=cli.sampling_settings(args),
        judge=args.judge,
        pretrained=args.pretrained,
        json_file=args.json,
        grid_file=args.grid,
        device=args.device,
    )


if __name__ == "__main__":
    cli.run(main)

"""Draw pictures for prompts.

    python scripts/generate.py "a photo of a dog"
    python scripts/generate.py "a red car" "a school bus" --num-images 8 --seed 7 --out outputs/cars

Writes one PNG an image and a grid, and prints their paths. Same seed, same picture.
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_sampling_options(parser)
    parser.add_argument("prompt", nargs="*")
    parser.add_argument("--prompts", metavar="FILE", help="a file with a prompt a line")
    parser.add_argument("--num-images", type=int, default=4, help="pictures a prompt (default 4)")
    parser.add_argument("--out", default="outputs", help="the folder to write to (default: outputs)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--offload", action="store_true", help="keep on the device none but the part that runs")
    args = parser.parse_args(argv)

    from unclip.generate import generate

    generate(
        prompts=args.prompt,
        prompt_file=args.prompts,
        model_name=args.model,
        out=args.out,
        num_images=args.num_images,
        seed=args.seed,
        device=args.device,
        dtype=args.dtype,
        offload=args.offload,
        settings=cli.sampling_settings(args),
    )


if __name__ == "__main__":
    cli.run(main)

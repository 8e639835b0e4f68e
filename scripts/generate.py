"""Draw pictures for prompts.

    python scripts/generate.py "a photo of a dog"
    python scripts/generate.py "a red car" "a school bus" --num-images 8 --seed 7 --out outputs/cars

Writes one PNG an image and a grid, and prints their paths. Same seed, same picture.
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="*")
    parser.add_argument("--prompts", metavar="FILE", help="a file with a prompt a line")
    parser.add_argument("--model", default="pocket", help="pocket (default), a model folder, or a hub id")
    parser.add_argument("--num-images", type=int, default=4, help="pictures a prompt (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="of a prompt's first picture; the next take the next seeds")
    parser.add_argument("--steps", type=int, help="steps of the decoder")
    parser.add_argument("--prior-steps", type=int, help="steps of the prior")
    parser.add_argument("--guidance-scale", type=float, help="guidance of the decoder; 1: none")
    parser.add_argument("--prior-guidance-scale", type=float, help="guidance of the prior; 1: none")
    parser.add_argument("--sampler", help="ddpm, ddim or dpm++")
    parser.add_argument("--out", default="outputs", help="the folder to write to (default: outputs)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (default)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
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
        settings={
            "num_inference_steps": args.steps,
            "guidance_scale": args.guidance_scale,
            "prior_num_inference_steps": args.prior_steps,
            "prior_guidance_scale": args.prior_guidance_scale,
            "sampler": args.sampler,
        },
    )


if __name__ == "__main__":
    cli.run(main)

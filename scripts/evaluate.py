"""How often are a model's pictures of a concept named right by zero-shot CLIP classification?

    python scripts/evaluate.py --model pocket --concepts data/pocket/concepts.txt --num-images 200

The judge is the model's own CLIP unless --judge names another; its verdict flatters a model that was guided by it.
"""

import argparse

from unclip import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="pocket (default), a model folder, or a hub id")
    parser.add_argument("--concepts", required=True, metavar="FILE", help="a concept a line")
    parser.add_argument("--num-images", type=int, default=200, help="in all, evenly over the concepts (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", help="another CLIP: a folder or an OpenCLIP name")
    parser.add_argument("--pretrained", help="the tag of the judge's weights")
    parser.add_argument("--steps", type=int, help="steps of the decoder")
    parser.add_argument("--prior-steps", type=int, help="steps of the prior")
    parser.add_argument("--guidance-scale", type=float, help="guidance of the decoder; 1: none")
    parser.add_argument("--prior-guidance-scale", type=float, help="guidance of the prior; 1: none")
    parser.add_argument("--sampler", help="ddpm, ddim or dpm++")
    parser.add_argument("--json", metavar="FILE", help="write all figures here")
    parser.add_argument("--grid", metavar="FILE", help="write a contact sheet here, a row a concept")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()

    from unclip.evaluation.generated import draw_and_name

    settings = {
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance_scale,
        "prior_num_inference_steps": args.prior_steps,
        "prior_guidance_scale": args.prior_guidance_scale,
        "sampler": args.sampler,
    }
    draw_and_name(
        args.model, args.concepts, args.num_images, args.seed, settings, args.judge, args.pretrained, args.json,
        args.grid, args.device,
    )  # fmt: skip


if __name__ == "__main__":
    cli.run(main)

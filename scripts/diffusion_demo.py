"""Show what diffusion does: a photograph dissolving into noise, and the model's way back from noise to a picture.

    python scripts/diffusion_demo.py
    python scripts/diffusion_demo.py --image photo.jpg --prompt "a photo of a dog" --out outputs/demo

Writes forward.png and forward.gif (x_t for growing t), and reverse.png and reverse.gif (x_t above the model's x_0-hat),
with t and alpha_bar beneath each, and prints their paths.
"""

import argparse
from pathlib import Path

from unclip import cli

PHOTOGRAPH = Path(__file__).resolve().parents[1] / "data" / "photos" / "cat.jpg"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="pocket (default), a model folder, or a hub id")
    parser.add_argument("--image", default=PHOTOGRAPH, help="a picture to dissolve (default: data/photos/cat.jpg)")
    parser.add_argument("--prompt", default="a photo of a dog")
    parser.add_argument("--steps", type=int, help="steps of the way back")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="outputs/demo", help="the folder to write to (default: outputs/demo)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (default)")
    args = parser.parse_args(argv)

    from unclip.diffusion_demo import diffusion_demo

    diffusion_demo(
        model_name=args.model,
        prompt=args.prompt,
        image=args.image,
        steps=args.steps,
        seed=args.seed,
        out=args.out,
        device=args.device,
    )


if __name__ == "__main__":
    cli.run(main)

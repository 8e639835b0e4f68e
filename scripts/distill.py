"""Distil a model's decoder into one that draws in 4, 2 or 1 steps without guidance; writes OUT, a whole model.

    python scripts/distill.py --config configs/pocket/distill.yaml [--set teacher=runs/mine ...]
    python scripts/generate.py --model runs/fast "a photo of a dog" [--steps 1]
    accelerate launch --config_file configs/accelerate/one_node.yaml scripts/distill.py --config ...   # on several GPUs

Run the same command again to go on with a run that was stopped.
"""

from unclip import cli


def main(argv=None):
    config, overrides = cli.config_and_overrides(__doc__, argv)

    from unclip.training.distillation import distill

    distill(config, overrides)


if __name__ == "__main__":
    cli.run(main)

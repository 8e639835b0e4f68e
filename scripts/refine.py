"""Refine a model's decoder: it learns to tell photographs from what it drew itself; writes OUT, a whole model.

    python scripts/refine.py --config configs/pocket/refine.yaml [--set reference=runs/mine ...]
    python scripts/generate.py --model runs/refined "a photo of a dog"
    accelerate launch --config_file configs/accelerate/one_node.yaml scripts/refine.py --config ...   # on several GPUs

Run the same command again to go on with a run that was stopped. A second round refines what the first one wrote.
"""

from unclip import cli


def main(argv=None):
    config, overrides = cli.config_and_overrides(__doc__, argv)

    from unclip.training.refinement import refine

    refine(config, overrides)


if __name__ == "__main__":
    cli.run(main)

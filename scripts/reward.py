"""Reward a model's decoder for pictures in which ImageNet's classifiers recognise what was asked for; writes OUT, a whole model.

    python scripts/reward.py --config configs/pocket/reward.yaml [--set reference=runs/mine ...]
    python scripts/generate.py --model runs/rewarded "a photo of a dog"
    accelerate launch --config_file configs/accelerate/one_node.yaml scripts/reward.py --config ...   # on several GPUs

Run the same command again to go on with a run that was stopped. No pictures are needed: it learns from what it draws.
"""

from unclip import cli


def main(argv=None):
    config, overrides = cli.config_and_overrides(__doc__, argv)

    from unclip.training.reward import reward

    reward(config, overrides)


if __name__ == "__main__":
    cli.run(main)

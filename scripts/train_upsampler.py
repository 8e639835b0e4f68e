"""Train an upsampler on the pictures of shards; writes OUT/upsampler-STAGE.

    python scripts/train_upsampler.py --config configs/pocket/upsampler.yaml [--set train.minutes=30 ...]
    accelerate launch --config_file configs/accelerate/one_node.yaml scripts/train_upsampler.py --config ...   # on several GPUs

Run the same command again to go on with a run that was stopped.
"""

from unclip import cli


def main(argv=None):
    config, overrides = cli.config_and_overrides(__doc__, argv)

    from unclip.training.runs import train_upsampler

    train_upsampler(config, overrides)


if __name__ == "__main__":
    cli.run(main)

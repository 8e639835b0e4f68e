"""Train a CLIP from scratch on captioned or labelled shards; writes an OpenCLIP folder RUN/clip.

    python scripts/train_clip.py --config configs/pocket/clip-image.yaml [--set train.minutes=30 ...]
    accelerate launch --config_file configs/accelerate/one_node.yaml scripts/train_clip.py --config ...   # on several GPUs

Run the same command again to go on with a run that was stopped.
"""

from unclip import cli


def main(argv=None):
    config, overrides = cli.config_and_overrides(__doc__, argv)

    from unclip.training.runs import train_clip

    train_clip(config, overrides)


if __name__ == "__main__":
    cli.run(main)

"""Train the decoder on captioned or labelled shards; writes OUT/decoder.

    python scripts/train_decoder.py --config configs/pocket/decoder.yaml [--set train.minutes=30 ...]
    accelerate launch scripts/train_decoder.py --config ...        # on several GPUs

Run the same command again to go on with a run that was stopped.
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    args = parser.parse_args(argv)

    from unclip.training.runs import train_decoder

    train_decoder(args.config, args.set)


if __name__ == "__main__":
    cli.run(main)

"""Give a trained model another CLIP: its decoder and upsamplers read the new embeddings through a linear map.

    python scripts/retarget.py --model pocket --clip runs/my-clip/clip --data runs/data/tiny-imagenet --out runs/mine
    python scripts/retarget.py --clip ViT-B-32 --pretrained openai --data my/shards --out runs/mine

The map is fitted to pictures that both CLIPs look at, and the share of the old embeddings that it can tell is printed. Then
train a prior, from nothing, and the decoder further, with configs that name the new CLIP and that folder; for the first:

    python scripts/train_prior.py --config configs/pocket/prior.yaml --set clip.name=runs/my-clip/clip --set out=runs/mine
    python scripts/train_decoder.py --config configs/pocket/decoder.yaml --set clip.name=runs/my-clip/clip \\
        --set out=runs/mine --set train.init_from=runs/mine/decoder/model.safetensors
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="pocket (default), a model folder, or a hub id")
    parser.add_argument("--clip", required=True, help="an OpenCLIP folder, a hub id, or an OpenCLIP name")
    parser.add_argument("--pretrained", metavar="TAG", help="of an OpenCLIP name's weights")
    parser.add_argument("--data", required=True, metavar="DIR", help="a folder of shards")
    parser.add_argument("--split", default="test", help="of the shards (default: test)")
    parser.add_argument("--out", required=True, metavar="DIR", help="the new model's folder")
    args = parser.parse_args(argv)

    from unclip.retarget import retarget

    retarget(args.model, args.clip, args.pretrained, args.data, args.split, cli.output_folder(args.out))


if __name__ == "__main__":
    cli.run(main)

"""Released weights of others as a model that `generate.py` draws with.

    python scripts/import_weights.py karlo --source kakaobrain/karlo-v1-alpha --out models/karlo
    python scripts/import_weights.py prior --source kandinsky-community/kandinsky-2-2-prior --out models/kandinsky
    python scripts/import_weights.py prior --source ECLIPSE-Community/ECLIPSE_Karlo_Prior --out models/eclipse

`karlo` reads Karlo's own checkpoints (a folder with prior-ckpt-....ckpt and the rest) or diffusers' folders; `prior` a prior
alone, in diffusers' layout: a decoder for it has to be trained (scripts/train_decoder.py), or copied from a model with the
same CLIP. --source is a folder or a Hugging Face id.
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["karlo", "prior"])
    parser.add_argument("--source", required=True, metavar="DIR|ID", help="a folder, or a Hugging Face id")
    parser.add_argument("--out", required=True, metavar="DIR", help="the new model's folder")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of what is written (default: as it is)")
    parser.add_argument("--clip", help="an OpenCLIP folder or name, in place of the CLIP that the weights were made for")
    parser.add_argument("--pretrained", metavar="TAG", help="of an OpenCLIP name's weights")
    args = parser.parse_args(argv)

    from unclip.interop.importing import import_karlo, import_prior

    importer = {"karlo": import_karlo, "prior": import_prior}[args.what]
    importer(args.source, cli.output_folder(args.out), args.dtype, args.clip, args.pretrained)


if __name__ == "__main__":
    cli.run(main)

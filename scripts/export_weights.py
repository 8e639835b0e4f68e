"""A model of ours as other libraries read it.

    python scripts/export_weights.py diffusers --model runs/mine --out exported

writes the folders of diffusers' unCLIP classes (prior, decoder, text_proj, super_res_first, super_res_last, and their
schedulers): `PriorTransformer.from_pretrained("exported", subfolder="prior")`. A part that has no form there is left out, and
the reason said.
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=["diffusers"])
    parser.add_argument("--model", default="pocket", help="pocket (default), a model folder, or a hub id")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    args = parser.parse_args(argv)

    from unclip.interop.exporting import export_diffusers

    export_diffusers(args.model, cli.output_folder(args.out))


if __name__ == "__main__":
    cli.run(main)

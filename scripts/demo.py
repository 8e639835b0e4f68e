"""A page in the browser: draw, vary, blend, edit and classify pictures.

    python scripts/demo.py
    python scripts/demo.py --model runs/mine --port 8000

Prints the address to open. Needs the extra "demo" (pip install -e ".[demo]"), and no network.
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket", help="pocket (default), a model folder, or a hub id")
    parser.add_argument("--host", default="127.0.0.1", help="who may open the page; 127.0.0.1 (default): this machine alone")
    parser.add_argument("--port", type=int, default=7860, help="default 7860")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (default)")
    cli.add_dtype_option(parser)
    args = parser.parse_args(argv)
    dtype = cli.dtype_of(args.dtype, args.device)

    from unclip.page import serve

    serve(model_name=args.model, host=args.host, port=args.port, device=args.device, dtype=dtype)


if __name__ == "__main__":
    cli.run(main)

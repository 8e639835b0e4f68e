"""Time unclip beside its peers, in turn, on the same work.

    pip install -e ".[bench]"
    python scripts/benchmark.py sampling                                    # against diffusers, on the same weights
    python -m venv peer && peer/bin/pip install dalle2-pytorch
    python scripts/benchmark.py training --peer-python peer/bin/python      # against dalle2-pytorch
    python scripts/benchmark.py training --device cuda --dtype bfloat16     # or our step in both dtypes, on a GPU
    python scripts/benchmark.py roofline                                    # against what the machine can do
    python scripts/benchmark.py scaling                                     # over batch, threads, size, processes, steps
    python scripts/benchmark.py memory                                      # what gradient checkpointing saves and costs
    python scripts/benchmark.py data                                        # batches of pictures, from memory and streamed
    python scripts/benchmark.py startup                                     # pictures from the shell, beside the imports alone

Writes OUT/WHAT.json (the machine and what was measured), .md (a table) and .png (but of roofline, data and startup). Nothing
else should run meanwhile.
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sampling", "training", "roofline", "scaling", "memory", "data", "startup"])
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (default); of scaling, data, startup: cpu")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side runs (default 5)")
    parser.add_argument("--threads", type=int, help="of a process (default: all cores); not of scaling, data and startup")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of sampling, training, roofline")
    parser.add_argument("--model", default="pocket", help="of roofline, scaling, memory: pocket (default), folder or hub id")
    parser.add_argument("--data", metavar="DIR", help="of data: a folder of shards (default: some are made up)")
    parser.add_argument("--size", type=int, default=32, help="of data: side that pictures are decoded to (default 32)")
    parser.add_argument("--batch", type=int, help="pictures or captions at once (default: 1 of sampling, 8 of roofline, 64 "
                        "and 256 of training's decoder and prior)")  # fmt: skip
    parser.add_argument("--compile", metavar="MODE", help="of training: our step compiled, too; a mode of torch.compile")
    parser.add_argument("--peer-python", metavar="PATH", help="the Python of an environment with dalle2-pytorch")
    parser.add_argument("--out", default="outputs/benchmark", help="the folder to write to (default: outputs/benchmark)")
    args = parser.parse_args(argv)

    out = cli.output_folder(args.out)
    device = str(cli.device_of(args.device))
    if args.what == "roofline":
        from unclip.benchmark.roofline import roofline

        paths = roofline(args.model, args.batch, args.threads, args.dtype, device, out)
    elif args.what == "scaling":
        from unclip.benchmark.scaling import scaling

        paths = scaling(args.model, args.rounds, out)
    elif args.what == "memory":
        from unclip.benchmark.memory import memory

        paths = memory(args.model, args.rounds, args.threads, device, out)
    elif args.what == "data":
        from unclip.benchmark.data import data

        paths = data(args.data, args.size, args.rounds, out)
    elif args.what == "startup":
        from unclip.benchmark.startup import startup

        paths = startup(args.rounds, out)
    else:
        from unclip.benchmark.compare import compare

        how = (args.rounds, args.threads, args.dtype, device, args.batch, args.compile)
        paths = compare(args.what, *how, args.peer_python, out)
    print(*paths, sep="\n")


if __name__ == "__main__":
    cli.run(main)

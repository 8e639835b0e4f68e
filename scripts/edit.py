"""Draw by way of pictures: what the paper shows people doing with CLIP's latents.

    python scripts/edit.py vary cat.jpg --fidelity 0.5                       other pictures of the same
    python scripts/edit.py blend cat.jpg "a photo of a lemon"                from one to the next: a strip and a GIF
    python scripts/edit.py mix cat.jpg "a photo of a lemon:0.5"              both in one, with weights
    python scripts/edit.py edit cat.jpg "a dark photo"                       led by a caption: a strip and a GIF
    python scripts/edit.py redraw cat.jpg "a photo of a dog" --strength 0.6  noised, and drawn from there
    python scripts/edit.py inpaint cat.jpg mask.png "a photo of a lemon"     what is white in the mask is drawn anew

Writes PNGs and prints their paths. Options of drawing are those of generate.py. `edit.py vary --help` shows all.
"""

import argparse

from unclip import cli


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    vary = add(commands, "vary", "other pictures of what a picture shows")
    vary.add_argument("image")
    vary.add_argument("--fidelity", type=float, default=0.0, help="0: the same idea (default) ... 1: the same picture")

    blend = add(commands, "blend", "a way between pictures and prompts", frames=7)
    blend.add_argument("items", nargs="+", metavar="ITEM", help="a picture file or a prompt; two or more")

    mix = add(commands, "mix", "pictures and prompts in one")
    mix.add_argument("items", nargs="+", metavar="ITEM[:WEIGHT]", help="a picture file or a prompt; two or more")

    turn = add(commands, "edit", "a picture led from one caption to another", frames=5)
    turn.add_argument("image")
    turn.add_argument("caption", help="what it is to become")
    turn.add_argument("--base", default="a photo", help='what it is (default: "a photo")')
    turn.add_argument("--strength", type=float, default=0.4, help="of the last frame, 0 to 1 (default 0.4)")

    redraw = add(commands, "redraw", "a picture noised, and drawn to a prompt")
    redraw.add_argument("image")
    redraw.add_argument("prompt", nargs="?", default="", help="default: what the picture shows")
    redraw.add_argument("--strength", type=float, default=0.6, help="how far it is noised, above 0 to 1 (default 0.6)")

    inpaint = add(commands, "inpaint", "a part of a picture drawn anew")
    inpaint.add_argument("image")
    inpaint.add_argument("mask", help="a picture of the same size, white where to draw")
    inpaint.add_argument("prompt", nargs="?", default="", help="of the whole picture (default: what it shows)")
    inpaint.add_argument("--rounds", type=int, default=3, help="how often the decoder goes over it (default 3)")

    args = vars(parser.parse_args(argv))
    drawing, method, num_images = cli.drawing(args), args.pop("method"), args.pop("num_images", None)

    from unclip.edit import edit

    edit(method, args, num_images=num_images, **drawing)


def add(commands, method, purpose, frames=None):
    """A command that draws by a method of `UnCLIP`: so many frames by default, or as many pictures as are asked for."""
    parser = commands.add_parser(method, help=purpose, description=purpose)
    cli.add_drawing_options(parser)
    parser.set_defaults(method=method)
    if frames:
        parser.add_argument("--frames", type=int, dest="num_frames", default=frames, help=f"default {frames}")
    else:
        parser.add_argument("--num-images", type=int, help="default 4, or as many as there are seeds")
    return parser


if __name__ == "__main__":
    cli.run(main)

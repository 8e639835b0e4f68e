"""What every script shares: errors of the user end in one line, exit code 2, and no traceback."""

import argparse
import errno
import os
import sys
from pathlib import Path

from .errors import UserError


WRONG_PATHS = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG)


def run(main):
    """Call `main()`. A `UserError`, a full disk or Ctrl-C ends in one line instead of a traceback."""
    try:
        main()
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:
        fail("stopped")
    except Exception as error:
        if disk_is_full(error):
            fail("the disk is full: make room and run the same command again; what was finished is kept")
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            fail(f"cannot write or read {error.filename}: permission denied; choose another folder")
        if isinstance(error, OSError) and error.errno in WRONG_PATHS:
            fail(f"cannot write to {error.filename2 or error.filename}: {error.strerror.lower()}; choose another path")
        raise


def fail(message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def disk_is_full(error):
    """Is that what an error says? Python's own by its number, safetensors' only in words."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def config_and_overrides(description, argv=None):
    """The command line of every training script: (config path, list of "key=value")."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    args = parser.parse_args(argv)
    return args.config, args.set


def add_sampling_options(parser):
    """Options of every script that draws pictures; `sampling_settings` reads them."""
    parser.add_argument("--model", default="pocket", help="pocket (default), a model folder, or a hub id")
    parser.add_argument("--steps", type=int, help="steps of the decoder")
    parser.add_argument("--prior-steps", type=int, help="steps of the prior")
    parser.add_argument("--guidance-scale", type=float, help="guidance of the decoder; 1: none")
    parser.add_argument("--guidance-start", type=float, help="from which share of the way on the decoder is guided, 0 to 1")
    parser.add_argument("--guidance-end", type=float, help="and up to which, 0 to 1: a step without guidance costs half")
    parser.add_argument("--samples", type=int, help="pictures that the decoder draws for each of a prompt alone, to keep the best")
    parser.add_argument("--prior-guidance-scale", type=float, help="guidance of the prior; 1: none")
    parser.add_argument("--prior-samples", type=int, help="embeddings that the prior draws a picture, to keep the best")
    parser.add_argument("--prior-sampler", help="ddpm, ddim, dpm++ or dpm++sde")
    parser.add_argument("--upsampler-steps", type=numbers, metavar="N[,N...]", help="steps of every upsampler, or of each: 1,2")
    parser.add_argument("--upsampler-sampler", help="ddpm, ddim, dpm++ or dpm++sde, where it differs from --sampler")
    parser.add_argument("--upsampler-noise-level", type=float, help="noise on what an upsampler is given, 0 to below 1")
    parser.add_argument("--upsampler-grain", type=shares, metavar="X[,X...]",
                        help="noise that what upsamplers are given is taken to have already; or of each: 0.1,0")  # fmt: skip
    parser.add_argument("--upsampler-blur", type=float, help="blur of what an upsampler is given, in pixels")
    parser.add_argument("--stop-after", metavar="STAGE", help="draw with the stages up to base, upsampler-1, ...; not all")
    parser.add_argument("--sampler", help="ddpm, ddim, dpm++ or dpm++sde")
    parser.add_argument("--eta", type=float, help="noise in the steps of ddim: 0 none, 1 as much as ddpm")
    parser.add_argument("--negative-prompt", metavar="TEXT", help="what the pictures are led away from")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (default)")


SETTINGS = {  # what stands in `pipeline.Settings`, by the name of its option
    "steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "guidance_start": "guidance_start",
    "guidance_end": "guidance_end",
    "samples": "num_samples",
    "prior_steps": "prior_num_inference_steps",
    "prior_guidance_scale": "prior_guidance_scale",
    "prior_samples": "prior_num_samples",
    "prior_sampler": "prior_sampler",
    "upsampler_steps": "upsampler_num_inference_steps",
    "upsampler_sampler": "upsampler_sampler",
    "upsampler_noise_level": "upsampler_noise_level",
    "upsampler_grain": "upsampler_grain",
    "upsampler_blur": "upsampler_blur",
    "stop_after": "stop_after",
    "sampler": "sampler",
    "eta": "eta",
    "negative_prompt": "negative_prompt",
}


def sampling_settings(args):
    """What was given of `pipeline.Settings`, taken out of the arguments (a dict); None leaves the model's default."""
    return {setting: args.pop(option) for option, setting in SETTINGS.items()}


def add_drawing_options(parser):
    """Options of every script that writes the pictures it draws; `drawing` reads them."""
    add_sampling_options(parser)
    parser.add_argument("--seed", type=numbers, default=0, metavar="N[,N...]",
                        help="of the first picture, the next take the next seeds; or a seed for each picture: 3,17,99")  # fmt: skip
    parser.add_argument("--out", default="outputs", help="the folder to write to (default: outputs)")
    add_dtype_option(parser)
    parser.add_argument("--offload", action="store_true", help="keep on the device none but the part that runs")


def add_dtype_option(parser):
    """In what a script draws; `dtype_of` reads it."""
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"],
                        help="auto (default): bfloat16 where the hardware computes in it, else float32")  # fmt: skip


def dtype_of(name, device):
    """The name of the dtype that --dtype and --device ask for. Raises UserError as `device_of`."""
    from .precision import chosen_dtype

    return chosen_dtype(name, device_of(device))


def drawing(args):
    """What `add_drawing_options` asked for, taken out of the arguments (a dict), as the functions behind scripts take it."""
    args["dtype"] = dtype_of(args["dtype"], args["device"])
    names = ("out", "seed", "device", "dtype", "offload")
    return {"model_name": args.pop("model"), "settings": sampling_settings(args), **{name: args.pop(name) for name in names}}


def numbers(text, kind=int):
    """A whole number, or a list of several with commas between them; kind: float for others."""
    return kind(text) if "," not in text else [kind(one) for one in text.split(",")]


def shares(text):
    """The same of numbers that may have a fraction."""
    return numbers(text, float)


def output_folder(path):
    """A path that is a folder, or can become one. Raises UserError for any other."""
    path = Path(path)
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise UserError(f"--out {path}: {place} is a file: name a folder")
    check_writable(path, "--out")
    return path


def check_writable(path, option):
    """Raises UserError where the nearest folder that exists, at a path or above it, may not be written to."""
    above = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: {above} is not yours to write to: choose another folder")


def device_of(name):
    """The torch device called `name` ('auto': the GPU where there is one).

    Raises:
        UserError: there is no such device on this machine.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception:
        raise UserError(f"no device {name!r} on this machine: use --device cpu, or auto") from None
    if device.type == "meta":
        raise UserError("device 'meta' holds no numbers: use --device cpu, or auto")
    return device

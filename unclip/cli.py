"""What every script shares: errors of the user end in one line, exit code 2, and no traceback."""

import errno
import sys

from .errors import UserError


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
        raise


def fail(message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def disk_is_full(error):
    """Is that what an error says? Python's own by its number, safetensors' only in words."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


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

import errno

import pytest
import torch
from safetensors import SafetensorError

from unclip.cli import device_of, run
from unclip.errors import UserError


def ends(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("error, says", [
    (UserError("no model x: train one"), "error: no model x: train one"),
    (OSError(errno.ENOSPC, "No space left on device"), "error: the disk is full"),
    (SafetensorError("I/O error: No space left on device (os error 28)"), "error: the disk is full"),
    (PermissionError(errno.EACCES, "Permission denied", "/out"), "error: cannot write or read /out"),
    (KeyboardInterrupt(), "error: stopped"),
])  # fmt: skip
def test_the_users_errors_end_in_one_line_and_code_2(capsys, error, says):
    with pytest.raises(SystemExit) as end:
        run(ends(error))
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == "" and err.startswith(says) and err.count("\n") == 1


def test_our_own_errors_keep_their_traceback():
    for error in (ValueError("a bug"), OSError(errno.EIO, "broken disk")):
        with pytest.raises(type(error)):
            run(ends(error))


def test_a_good_run_ends_well(capsys):
    run(lambda: print("done"))
    assert capsys.readouterr() == ("done\n", "")


def test_devices():
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto").type in ("cpu", "cuda", "mps")
    for name in ("gpu", "cuda:99", "meta", "", "cpu:x"):
        with pytest.raises(UserError, match="--device cpu, or auto"):
            device_of(name)

"""Files beside shards: tensors of a shard's samples, with the samples' keys.

Which shard they were computed from is told by its size, and in what (float32, bfloat16) by `computed_in`; both stand in the
file's metadata. Such a file is whole or not there: it is written under another name and moved.
"""

import hashlib
import json
import math
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..files import new_file, parse_json

LONGEST = 100_000_000  # bytes of a header: safetensors reads no more


def write_beside(shard, file, keys, tensors, computed_in):
    """Write `tensors` of a shard's samples; keys: a string for each of their rows. Raises OSError, SafetensorError."""
    with new_file(file) as temporary:
        save_file(tensors, temporary, metadata=metadata(keys, Path(shard).stat().st_size, computed_in))
        sort_header(temporary)


def sort_header(file):
    """Put a file's header in order: safetensors' own differs from run to run, and what is the same is to have one checksum."""
    with open(file, "r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.dumps(parse_json(opened.read(length)), sort_keys=True, separators=(",", ":"))
        opened.seek(8)
        opened.write(header.encode().ljust(length))


def metadata(keys, shard_bytes, computed_in):
    return {"keys": json.dumps(keys), "shard_bytes": str(shard_bytes), "computed_in": computed_in}


def read_beside(shard, file):
    """(keys, {name: tensor, mapped and not yet read}); None where there is no file, one cut off, or one of another shard."""
    try:
        with safe_open(file, "pt") as opened:
            said, size = opened.metadata(), str(Path(shard).stat().st_size)
            if said.get("shard_bytes", size) != size:
                return None
            keys = parse_json(said["keys"])
            if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
                return None
            return keys, {name: opened.get_tensor(name) for name in opened.keys()}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError):
        return None


def checksum(file):
    """{bytes, sha256} of a file: the hash is of its header (a length of 8 bytes, and so much JSON), which has the shapes, the
    keys of the samples in order, and the shard's size. Raises OSError."""
    header, size = read_header(file)
    return summed(header, size)


def summed(header, size):
    return {"bytes": size, "sha256": hashlib.sha256(header).hexdigest()}


def describe(file, counted):
    """What a manifest says of a whole file, told by its header alone: rows, shard_bytes, bytes, sha256, computed_in.

    rows: of the tensor named `counted`. Raises OSError, or ValueError for what is no such file.
    """
    header, size = read_header(file)
    try:
        tensors = parse_json(header[8:])
        said = tensors.pop("__metadata__")
        if size != len(header) + max(tensor["data_offsets"][1] for tensor in tensors.values()):
            raise ValueError(f"{file} is cut off")
        return {
            "rows": tensors[counted]["shape"][0], "shard_bytes": int(said["shard_bytes"]), **summed(header, size),
            "computed_in": said.get("computed_in", "unknown"),
        }  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} has another header") from error


def read_header(file):
    """(the bytes of a file before its tensors, or the first LONGEST, the size of all)."""
    size = Path(file).stat().st_size
    with open(file, "rb") as opened:
        length = opened.read(8)
        return length + opened.read(min(size, int.from_bytes(length, "little"), LONGEST)), size


def file_bytes(shapes, keys, shard_bytes, computed_in):
    """The size of a file of tensors of these shapes, {name: (dtype as safetensors calls it, bytes a number, shape)}."""
    header, end = {"__metadata__": metadata(keys, shard_bytes, computed_in)}, 0
    for name, (dtype, width, shape) in shapes.items():
        begin, end = end, end + width * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-length // 8) * 8 + end

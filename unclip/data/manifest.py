"""What a data folder says of the embeddings in it: which CLIP's they are, and of which shards.

`scripts/embed.py` writes `embeddings.FINGERPRINT.json` for pictures, and `embeddings.FINGERPRINT.text.json` for captions, into
the data folder when all is embedded. Its checksums are sizes, of the shard and of the file beside it, and the sha256 of that
file's header, which has the samples' keys: to read the terabytes of a large set again would take hours.
"""

import json
from pathlib import Path

from ..errors import UserError
from ..files import new_file, parse_json
from .beside import checksum, describe
from .caption_embeddings import Captions
from .embeddings import Pictures
from .shards import estimated_samples, find_shards, splits

COMPARED = ("shard_bytes", "bytes", "sha256")
MOST = 1_000_000  # pictures that a training may embed at its start, where the folder is another CLIP's
CHECKSUM = "sha256 of the first 8 bytes of the file, a little-endian number, and of as many bytes after them: its header"


def all_shards(folder):
    """The shards of all splits of a data folder. Raises UserError as `find_shards`."""
    folder = Path(folder)
    names = [name for name in splits(folder) if not name.startswith(".")] if folder.is_dir() else []
    loose = [""] if not names or any(folder.glob("*.tar")) else []
    return [shard for name in loose + names for shard in find_shards(folder, name)]


def manifest_file(folder, fingerprint, kind=Pictures):
    return Path(folder) / f"embeddings.{fingerprint}{'.text' if kind is Captions else ''}.json"


def write_manifest(folder, clip_identity, fingerprint, kind=Pictures):
    """Write what is there of a kind's files beside the shards of a data folder. Returns the manifest's path."""
    files = {}
    for shard in all_shards(folder):
        try:
            said = describe(kind.file(shard, fingerprint), kind.counted)
        except (OSError, ValueError):
            continue  # another split, which nobody asked to embed
        if said["shard_bytes"] == shard.stat().st_size:
            files[shard.relative_to(folder).as_posix()] = {kind.unit: said.pop("rows"), **said}
    scaled = "scaled to length sqrt(D)" if clip_identity["unit_variance"] else "as CLIP's tower gives it"
    manifest = {
        "clip": clip_identity, "fingerprint": fingerprint, "convention": f"each embedding {scaled}",
        "computed_in": sorted({said.pop("computed_in") for said in files.values()}), "kept_in": "float16",
        "shards": len(files), kind.unit: sum(said[kind.unit] for said in files.values()), "checksum": CHECKSUM, "files": files,
    }  # fmt: skip
    path = manifest_file(folder, fingerprint, kind)
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return path


def check_manifest(folder, clip, texts=False):
    """Whether a training may rely on the embeddings in a data folder; a folder without manifests will do.

    Reads the headers of all files that the manifest lists: a task for one process. texts: whether it reads those of captions,
    too.

    Raises:
        UserError: a manifest of this CLIP lists a file or shard that is not there or is another one by now; or there are
            manifests of pictures by other CLIPs alone, and more than MOST pictures to embed.
    """
    folder = Path(folder)
    others = [path for path in sorted(folder.glob("embeddings.*.json")) if not path.name.endswith(".text.json")]
    for kind in (Pictures, Captions) if texts else (Pictures,):
        fingerprint = kind.fingerprint(clip)
        own = manifest_file(folder, fingerprint, kind)
        if own.is_file():
            check_files(own, kind, fingerprint)
        elif kind is Pictures and others:
            check_amount(folder, clip, fingerprint, others)


def check_amount(folder, clip, fingerprint, others):
    """Raises UserError where more than MOST pictures lack this CLIP's embeddings; others: the manifests that are there."""
    missing = [shard for shard in all_shards(folder) if not Pictures.file(shard, fingerprint).is_file()]
    count = estimated_samples(missing) if missing else 0
    if count > MOST:
        differs = "; ".join(difference(read_manifest(path), clip.identity, fingerprint) for path in others)
        raise UserError(
            f"{folder} has embeddings of another CLIP ({differs}), and about {count:,} pictures are too many to embed first: "
            "name that CLIP in the config, or run scripts/embed.py with this one"
        )


def read_manifest(path):
    """The manifest in a file. Raises UserError for what is none."""
    try:
        manifest = parse_json(path.read_text(encoding="utf-8"))
        known = manifest["clip"].keys() >= {"name", "pretrained", "unit_variance"} and "fingerprint" in manifest
        whole = all(said.keys() >= set(COMPARED) for said in manifest["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        known = whole = False
    if not (known and whole):
        raise UserError(f"cannot read {path}: remove it, and run scripts/embed.py again, which writes it anew")
    return manifest


def check_files(path, kind, fingerprint):
    """Raises UserError for the first file of a kind that a manifest lists and that is not as it says."""
    for name, said in read_manifest(path)["files"].items():
        shard = path.parent / name
        try:
            file = kind.file(shard, fingerprint)
            found = {"shard_bytes": shard.stat().st_size, **checksum(file)}
            wrong = [what for what, value in found.items() if said[what] != value]
            wrong = f"{shard if 'shard_bytes' in wrong else file} is another file" if wrong else None
        except OSError as error:
            wrong = f"cannot read {error.filename} ({error.strerror})"
        except ValueError:
            wrong = f"{name!r:.100} is no shard's name"
        if wrong:
            raise UserError(f"{path} does not fit the data: {wrong}; copy that again, or run scripts/embed.py again")


def difference(manifest, identity, fingerprint):
    """In what the CLIP of a manifest differs from one: a few words."""
    theirs = manifest["clip"]
    for key, what in (("name", "{}"), ("pretrained", "weights {}"), ("unit_variance", "unit_variance {}")):
        if theirs[key] != identity[key]:
            return f"{what.format(theirs[key])}, not {identity[key]}"
    return f"the same name, but other weights: checksum {manifest['fingerprint']}, not {fingerprint}"

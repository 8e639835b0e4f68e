"""What `scripts/export_weights.py` does: a model folder of ours -> the folders that diffusers reads."""

from ..decoder import Decoder
from ..errors import UserError
from ..files import new_folder
from ..hub import model_folder
from ..model_index import upsampler_folders
from ..prior import DiffusionPrior
from ..upsampler import Upsampler
from .diffusers_export import write_decoder, write_prior, write_upsampler
from .importing import new_model


def export_diffusers(model, out):
    """Write every part of a model that has a form in diffusers, and say of the others why they have none.

    Raises:
        UserError: no such model, or none of its parts has one; nothing is written.
    """
    folder, out = model_folder(model), new_model(out)
    parts = [(folder / "prior", DiffusionPrior, write_prior), (folder / "decoder", Decoder, write_decoder)]
    parts += [(each, Upsampler, write_upsampler) for each in upsampler_folders(folder)[:1]]  # the pipeline there has one
    written, reasons = [], []
    with new_folder(out) as temporary:
        for source, kind, write in parts:
            if not source.is_dir():
                continue
            try:
                write(kind.from_pretrained(source), temporary)
                written.append(source.name)
            except UserError as reason:
                reasons.append(str(reason))
        if not written:
            raise UserError(f"nothing of {model} can be exported: {'; '.join(reasons) or 'it has no parts'}")
    for reason in reasons:
        print(f"left out: {reason}")
    print(f"{', '.join(written)}: {out}")

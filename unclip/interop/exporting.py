"""What `scripts/export_weights.py` does: a model folder of ours -> the folders that diffusers reads."""

from ..decoder import Decoder
from ..errors import UserError
from ..files import empty_folder, new_folder
from ..hub import model_folder
from ..model_index import INDEX, read_clip_entry, upsampler_folders
from ..prior import DiffusionPrior
from ..upsampler import Upsampler
from .diffusers_export import NoForm, write_decoder, write_prior, write_upsampler


def export_diffusers(model, out):
    """Write every part of a model that has a form in diffusers, and say of the others why they have none.

    Raises:
        UserError: no such model, a part that is damaged, or none that has a form there; nothing is written.
    """
    folder, out = model_folder(model), empty_folder(out)
    upsamplers = upsampler_folders(folder)
    parts = [(folder / "prior", DiffusionPrior, write_prior), (folder / "decoder", Decoder, write_decoder)]
    parts = [part for part in parts if part[0].is_dir()] + [(each, Upsampler, write_upsampler) for each in upsamplers[:1]]
    written, reasons = [], [f"{each.name}: diffusers' unCLIP has one upsampler" for each in upsamplers[1:]]
    with new_folder(out) as temporary:
        for source, kind, write in parts:
            part = kind.from_pretrained(source)
            try:
                write(part, temporary)
                written.append(source.name)
            except NoForm as reason:
                reasons.append(str(reason))
        if not written:
            raise UserError(f"nothing of {model} can be exported: {'; '.join(reasons) or 'it has no parts'}")
    for reason in reasons:
        print(f"left out: {reason}")
    if (folder / INDEX).is_file() and read_clip_entry(folder)["unit_variance"]:
        print("note: these parts read CLIP's embeddings divided by their length and multiplied by the root of their width")
    print(f"{', '.join(written)}: {out}")

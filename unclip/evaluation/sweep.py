"""The same measurement at several values of a setting."""

from dataclasses import dataclass

from ..errors import UserError, nearest
from ..pipeline import Settings


@dataclass(frozen=True)
class Sweep:
    """setting: a field of `pipeline.Settings`; values: checked ones, in the order given."""

    setting: str
    values: tuple


def parse_sweeps(texts, model, settings):
    """Strings "SETTING=VALUE,VALUE,..." as sweeps; the model says which settings and values there are, beside `settings`.

    Raises:
        UserError: another form, an unknown setting, or a value out of range.
    """
    sweeps = []
    for text in texts:
        setting, equals, values = text.partition("=")
        values = [v.strip() for v in values.split(",") if v.strip()]
        if not equals or not values:
            raise UserError(f"--sweep {text}: write it as SETTING=VALUE,VALUE, e.g. guidance_scale=1,2,4")
        setting = setting.strip()
        if setting == "stop_after" or setting in [sweep.setting for sweep in sweeps]:
            raise UserError(f"--sweep {text}: each setting once, and not stop_after, whose pictures differ in size")
        if setting not in Settings.model_fields:
            known = [name for name in Settings.model_fields if name != "stop_after"]
            raise UserError(f"--sweep {text}: no setting {setting!r}{nearest(setting, known)}; all of them: {', '.join(known)}")
        if setting not in model.used(model.settings(**settings)):
            raise UserError(f"--sweep {text}: no upsampler draws here: leave it out")
        checked = tuple(getattr(model.settings(**{**settings, setting: value}), setting) for value in values)
        if len(set(checked)) < 2:
            raise UserError(f"--sweep {text}: name two values at least that differ")
        sweeps.append(Sweep(setting, checked))
    return sweeps

"""The web page: what `scripts/demo.py` serves. Nothing outside of this package needs gradio."""

import importlib.util
import os

from ..errors import UserError


def serve(**options):
    """Load a model and serve its page until Ctrl-C: see `app.serve`.

    Raises:
        UserError: gradio is missing.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError('the page needs gradio: pip install -e ".[demo]"')
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # is read when gradio is imported

    from . import app

    app.serve(**options)

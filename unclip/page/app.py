"""The page as a whole: its tabs, its look, and how it is served."""

import socket

import gradio as gr
import torch

from ..cli import device_of
from ..errors import UserError
from ..pipeline import UnCLIP
from . import blend, classify, diffusion, generate, inpaint, limits, pictures
from .drawing import Studio

TABS = {
    "Generate": generate.build,
    "Variations": pictures.variations,
    "Image-to-image": pictures.image_to_image,
    "Blend": blend.build,
    "Edit": pictures.edit,
    "Inpaint": inpaint.build,
    "Classify": classify.build,
    "How diffusion works": diffusion.build,
}
FONTS = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # of the visitor's machine: nothing is fetched
CSS = """
.gallery-container .grid-wrap { max-height: none; }
.gallery-container .grid-container { grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); }
.gallery-container .thumbnail-lg { height: auto; aspect-ratio: auto; background: none; }
.gallery-container .thumbnail-lg > img { height: auto; aspect-ratio: 1; }
.gallery-container .thumbnail-lg .caption-label { position: static; max-width: none; white-space: normal; border: none; }
"""
MAX_WAITING = 32  # orders in the queue
CACHE_CHECK, CACHE_AGE = 600, 3600  # seconds: pictures older than an hour are deleted


def serve(*, model_name, host, port, device, dtype):
    """Load a model and serve its page until Ctrl-C; prints the address. Arguments are those of the script.

    Raises:
        UserError: the address cannot be had, or as `UnCLIP.from_pretrained`.
    """
    check_address(host, port)
    studio = Studio(UnCLIP.from_pretrained(model_name, device=device_of(device), dtype=getattr(torch, dtype)))
    page = build(studio)
    try:
        print(launch(page, host, port), flush=True)
        page.block_thread()
    finally:
        studio.close()


def check_address(host, port):
    """Raises UserError where nothing can listen there."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host}:{port} ({error}): choose another --port, or --host") from None


def build(studio):
    """A gr.Blocks with a tab for each of TABS, which all draw in one Studio."""
    with gr.Blocks(title="unclip", analytics_enabled=False, delete_cache=(CACHE_CHECK, CACHE_AGE)) as page:
        gr.Markdown("# unclip\nText to image by way of CLIP embeddings. One drawing at a time: others wait their turn.")
        for name, tab in TABS.items():
            with gr.Tab(name):
                tab(studio)
    return page.queue(max_size=MAX_WAITING, api_open=False)


def launch(page, host, port):
    """Serve a page in the background, for nobody but who can reach the host: its address."""
    theme = gr.themes.Default(font=FONTS[0], font_mono=FONTS[1])
    page.launch(
        server_name=host, server_port=port, theme=theme, css=CSS, max_file_size=limits.MAX_FILE, share=False,
        inbrowser=False, footer_links=[], run_history=False, ssr_mode=False, pwa=False, mcp_server=False,
        enable_monitoring=False, quiet=True, prevent_thread_lock=True,
    )  # fmt: skip
    return page.local_url

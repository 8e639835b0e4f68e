import ast
import logging
import subprocess
import sys
import textwrap
from pathlib import Path

from unclip.clip import FrozenCLIP
from unclip.hub import POCKET
from unclip.openclip.library import import_open_clip, refusals
from unclip.operators import declare_operators

REPO = Path(__file__).resolve().parents[2]


def imports(file):
    """Whether a file has a statement that imports open_clip, anywhere in it."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return any(name.split(".")[0] == "open_clip" for name in names)


def test_one_file_imports_open_clip():
    files = [file for folder in ("unclip", "scripts") for file in (REPO / folder).rglob("*.py")]
    assert [str(file.relative_to(REPO)) for file in files if imports(file)] == ["unclip/openclip/library.py"]


def imported(code):
    """What a new process prints that runs `code`, in which `loaded()` is what it has imported of OpenCLIP and its kin."""
    loaded = "import sys\nloaded = lambda: sorted({'open_clip', 'timm', 'torchvision', 'transformers'} & set(sys.modules))\n"
    done = subprocess.run([sys.executable, "-c", loaded + textwrap.dedent(code)], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_no_module_imports_open_clip_before_it_is_asked_to(model_files):
    """Nor does what a caption needs: the names of a folder, its text tower, the tokenizer."""
    before, after = imported(f"""
        from unclip import contrastive
        from unclip.clip import FrozenCLIP
        from unclip.openclip import building, folder, library, names, tokenizer
        clip = FrozenCLIP({str(model_files / "clip")!r})
        clip.encode_text(["a dog"]), clip.fingerprint()
        print(loaded())
        clip.model
        print(loaded())
    """)
    assert before == "[]" and "open_clip" in after


def test_nor_does_what_a_picture_needs_of_the_clip_that_ships():
    """All that it says of captions and pictures, and how near they are."""
    assert imported(f"""
        import torch
        from PIL import Image
        from unclip.clip import FrozenCLIP
        clip = FrozenCLIP({str(POCKET / "clip")!r}, unit_variance=True)
        clip.encode_image(torch.zeros(1, 3, 128, 128)), clip.encode_image([Image.new("RGB", (90, 70))]), clip.image_fingerprint()
        clip.whole().logit_scale(), clip.encode_text(["a dog"])
        print(loaded())
    """) == ["[]"]


def test_nor_does_a_model_that_is_here_by_its_name():
    assert imported(f"""
        from unclip.hub import POCKET, any_clip
        any_clip("pocket").whole(), any_clip(POCKET).whole(), any_clip(POCKET / "clip").whole()
        print(loaded())
    """) == ["[]"]


def test_loading_leaves_logging_as_it_was(model_files, caplog):
    before = logging.root.handlers[:], logging.root.manager.disable
    FrozenCLIP(model_files / "clip").model  # all of it, through OpenCLIP
    with refusals("nothing"):
        logging.warning("kept from the screen")
    assert (logging.root.handlers, logging.root.manager.disable) == before
    logging.warning("shown")
    assert caplog.messages == ["shown"]


def test_open_clip_imports_twice_and_unaided_where_torchvision_loads():
    import torchvision

    assert import_open_clip() is import_open_clip()
    assert (declare_operators() is not None) == (not torchvision.extension._has_ops())


def test_open_clip_imports_where_torchvisions_operators_do_not_load(tmp_path):
    """As with the CPU build of torch beside PyPI's torchvision, whose import ends at the missing schema of nms."""
    (tmp_path / "torchvision.py").write_text(
        "import torch\n"
        "for name in ('nms', 'qnms'):\n"
        "    torch.library.register_fake(f'torchvision::{name}')(lambda dets, scores, iou_threshold: None)\n"
    )
    (tmp_path / "open_clip.py").write_text("import torchvision\n")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(REPO)!r}]\n"
        "try:\n    import torchvision\nexcept RuntimeError as error:\n    print(error)\n"
        "from unclip.openclip.library import import_open_clip\n"
        "print(import_open_clip().__file__, import_open_clip().torchvision.__name__)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.splitlines() == [
        "operator torchvision::nms does not exist",
        f"{tmp_path / 'open_clip.py'} torchvision",
    ], out.stderr

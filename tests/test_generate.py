import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from unclip.generate import GRID_ROWS
from unclip.outputs import file_names, slug
from unclip.pipeline import UnCLIP

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "generate.py"


def test_from_a_shell(model_files, tmp_path):
    """A fresh process: pictures and paths, then an error. The rest runs in this process, which is quicker."""
    command = [sys.executable, str(SCRIPT), "--model", str(model_files), "--num-images", "2", "--device", "cpu"]
    done = subprocess.run([*command, "a dog"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    paths = [tmp_path / line for line in done.stdout.splitlines()]
    assert len(paths) == 3 and all(path.parent == tmp_path / "outputs" and path.is_file() for path in paths)
    done = subprocess.run([*command, ""], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: an empty prompt") and done.stderr.count("\n") == 1


HEAVY = """accelerate diffusers gradio huggingface_hub matplotlib open_clip scipy sympy tensorboard timm torchvision
    transformers webdataset torch._dynamo torch._inductor torch.distributed.tensor torch.onnx""".split()


def test_drawing_imports_no_more_than_it_needs(model_files, tmp_path):
    """Each of these takes longer to import than all the rest, or than drawing; in a fresh process."""
    code = f"""if True:
        import runpy, sys
        sys.argv = [{str(SCRIPT)!r}, "a dog", "--model", {str(model_files)!r}, "--out", {str(tmp_path)!r}, "--device", "cpu"]
        runpy.run_path(sys.argv[0], run_name="__main__")
        print(*sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *pictures, modules = done.stdout.splitlines()
    modules = set(modules.split())
    assert len(pictures) == 5 and "unclip.clip" in modules
    assert not modules & set(HEAVY)


@pytest.fixture
def generate(run_script, model_files, tmp_path):
    def run(*argv, model=model_files, out=tmp_path / "out"):
        return run_script("generate", *argv, "--model", model, "--out", out, "--device", "cpu")

    return run


# ---- what it writes --------------------------------------------------------------------------------------------------

def test_a_png_an_image_and_a_grid(generate, model_files, tmp_path):
    code, out, err = generate("a red car", "a dog", "--num-images", "3", "--seed", "5", "--steps", "4",
                              "--sampler", "ddpm", "--guidance-scale", "1.5", "--prior-samples", "3",
                              "--prior-sampler", "ddim")  # fmt: skip
    assert code == 0
    *pictures, sheet = map(Path, out)
    assert {*pictures, sheet} == set((tmp_path / "out").iterdir())

    model = UnCLIP.from_pretrained(model_files)
    expected = [(prompt, 5 + k) for prompt in ("a red car", "a dog") for k in range(3)]
    for path, (prompt, seed) in zip(pictures, expected, strict=True):
        image = Image.open(path)
        assert image.text["prompt"] == prompt
        assert image.text["seed"] == str(seed)
        assert image.text["model"] == str(model_files)
        settings = json.loads(image.text["settings"])
        assert (settings["num_inference_steps"], settings["sampler"], settings["guidance_scale"]) == (4, "ddpm", 1.5)
        assert (settings["prior_num_samples"], settings["prior_sampler"]) == (3, "ddim")
        # what stands in the file draws the file again
        (again,) = model(image.text["prompt"], seed=int(image.text["seed"]), **settings)
        differences = [abs(a - b) for a, b in zip(image.tobytes(), again.tobytes(), strict=True)]
        assert max(differences) <= 1

    grid = Image.open(sheet)
    assert grid.text["prompt"] == "a red car | a dog" and grid.text["seed"] == "5"
    assert "settings" in grid.text
    side = (grid.width - 2 * 2) // 3  # three columns, gaps of 2
    assert side % 8 == 0 and (grid.width, grid.height) == (3 * side + 4, 2 * side + 2)
    corners = [grid.getpixel(((side + 2) * (k % 3), (side + 2) * (k // 3))) for k in range(6)]
    assert corners == [Image.open(path).getpixel((0, 0)) for path in pictures]


@pytest.mark.parametrize("stage, side", [("base", 8), ("upsampler-1", 16), ("upsampler-2", 64)])
def test_the_stages_can_be_seen(generate, cascade_files, stage, side):
    code, out, _ = generate("a dog", "--num-images", "1", "--stop-after", stage, "--upsampler-steps", "2", model=cascade_files)
    assert code == 0 and Image.open(out[0]).size == (side, side)
    assert json.loads(Image.open(out[0]).text["settings"])["stop_after"] == stage


def test_the_same_command_writes_the_same_files(generate, tmp_path):
    for name in ("one", "two"):
        assert generate("a dog", "--num-images", "2", out=tmp_path / name)[0] == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_prompts_from_a_file_and_the_command_line(generate, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\nthe red car\n")
    code, out, _ = generate("a dog", "--prompts", tmp_path / "prompts.txt", "--num-images", "1")
    assert code == 0
    assert [Image.open(path).text["prompt"] for path in out] == [
        "a dog", "a cat", "the red car", "a dog | a cat | the red car",
    ]  # fmt: skip


def test_prompts_that_share_a_name_do_not_share_a_file(generate):
    code, out, _ = generate("a dog!", "a dog?", "A dog", "--num-images", "1")
    assert code == 0 and len(set(out)) == 4
    assert [Image.open(path).text["prompt"] for path in out[:3]] == ["a dog!", "a dog?", "A dog"]


def test_the_grid_has_a_limit(generate, tmp_path):
    prompts = [f"dog {k}" for k in range(GRID_ROWS + 3)]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    code, out, _ = generate("--prompts", tmp_path / "prompts.txt", "--num-images", "2", "--steps", "1")
    assert code == 0 and len(out) == 2 * (GRID_ROWS + 3) + 1
    grid = Image.open(out[-1])
    side = (grid.width - 2) // 2  # two columns, gaps of 2
    assert grid.height == GRID_ROWS * (side + 2) - 2


def test_prompts_with_one_picture_each_share_the_rows_of_the_grid(generate):
    code, out, _ = generate(*(f"dog {k}" for k in range(6)), "--num-images", "1", "--steps", "1")
    grid = Image.open(out[-1])
    side = (grid.height - 2) // 2
    assert code == 0 and (grid.width, grid.height) == (3 * side + 4, 2 * side + 2)


def test_names():
    assert slug("A photo of: a dog!") == "a-photo-of-a-dog"
    assert slug("?!") == "picture"
    assert "/" not in slug("../../etc/passwd") and not slug("../x").startswith(".")
    for prompt in ("long " * 100, "狗" * 100, "𝒜" * 100):
        assert 0 < len(slug(prompt).encode()) <= 60
    names = file_names(["a dog", "a dog!", "a dog", "a dog v2", "a dog?"])
    assert len(names) == len(set(names.values())) == 4


# ---- what it says ----------------------------------------------------------------------------------------------------

def test_unknown_words_and_long_prompts_are_said_and_drawn(generate):
    code, out, err = generate("a phtoo of a brigde", "the dog " * 20, "a dog", "--num-images", "1")
    assert code == 0 and len(out) == 4
    notes = [line for line in err if line.startswith("note:")]
    assert len(notes) == 2
    assert all(word in notes[0] for word in ("'phtoo'", "'brigde'", "photo", "bridge"))
    assert "42 tokens" in notes[1] and "cut after 12" in notes[1]


def test_progress_is_shown(generate):
    err = "\n".join(generate("a dog", "--num-images", "2")[2])
    assert "drawing" in err and "2.00/2.00" in err


# ---- bad input -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("argv, says", [
    ([], "no prompt"),
    ([""], "an empty prompt"),
    (["a dog", "  "], "an empty prompt"),
    (["a dog", "--num-images", "0"], "0 images: ask for at least 1"),
    (["a dog", "--seed", "-1"], "seed -1"),
    (["a dog", "--seed", "99999999999999999999"], "seed 99999999999999999999"),
    (["a dog", "--device", "gpu"], "no device 'gpu'"),
    (["a dog", "--device", "cuda:77"], "no device 'cuda:77'"),
    (["a dog", "--sampler", "dimm"], "did you mean 'ddim'"),
    (["a dog", "--steps", "0"], "num_inference_steps = 0"),
    (["a dog", "--steps", "1001"], "1 to 1000"),
    (["a dog", "--stop-after", "upsampler-1"], "no stage 'upsampler-1': choose base"),
    (["a dog", "--upsampler-steps", "0"], "upsampler_num_inference_steps = 0"),
    (["a dog", "--prior-steps", "0"], "prior_num_inference_steps = 0"),
    (["a dog", "--guidance-scale", "nan"], "guidance_scale"),
    (["a dog", "--model", "no/such/folder"], "no/such/folder"),
    (["a dog", "--model", "nobody/no-such-model"], "nobody/no-such-model"),
    (["a dog", "--model", ""], "no"),
    (["a dog", "--out", "{file}"], "is a file: name a folder"),
    (["a dog", "--out", "{file}/below"], "is a file: name a folder"),
    (["--prompts", "missing.txt"], "missing.txt"),
    (["--prompts", "{empty}"], "holds no prompt"),
    (["a dog", "--prompts", "{file}"], "UTF-8"),
])  # fmt: skip
def test_bad_input_ends_in_one_line(run_script, model_files, tmp_path, argv, says):
    (tmp_path / "file").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").write_text("\n")
    argv = [a.format(file=tmp_path / "file", empty=tmp_path / "empty") for a in argv]
    code, out, err = run_script("generate", "--model", model_files, "--out", tmp_path / "out", "--device", "cpu", *argv)
    assert code == 2 and out == []
    assert len(err) == 1 and err[0].startswith("error: ") and says in err[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file"]


def test_an_unfinished_model_ends_in_one_line(generate, model_copy, tmp_path):
    (model_copy / "decoder" / "model.safetensors").unlink()
    code, out, err = generate("a dog", model=model_copy)
    assert (code, out, len(err)) == (2, [], 1)
    assert "decoder" in err[0] and "lacks model.safetensors" in err[0]
    assert not (tmp_path / "out").exists()


def test_a_full_disk_keeps_what_is_finished_and_leaves_no_half(generate, tmp_path, monkeypatch):
    save = Image.Image.save

    def until_full(image, path, *args, **options):
        if "the-cat-1" in str(path):
            Path(path).write_bytes(b"\x89PNG half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, path, *args, **options)

    monkeypatch.setattr(Image.Image, "save", until_full)
    code, out, err = generate("a dog", "the cat", "--num-images", "2")
    assert code == 2 and err[-1].startswith("error: the disk is full")
    assert [Path(path).name for path in out] == ["a-dog-0.png", "a-dog-1.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a-dog-0.png", "a-dog-1.png", "the-cat-0.png"]
    for path in (tmp_path / "out").iterdir():
        Image.open(path).load()

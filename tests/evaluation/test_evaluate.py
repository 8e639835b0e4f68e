"""The command, on models and pictures of a few kilobytes."""

import json

import numpy as np
import pytest
import torch
from data.pictures import captioned_tar, png, write_tar
from PIL import Image

from unclip.data.images import to_float
from unclip.evaluation.features import ClipFeatures
from unclip.evaluation.metrics import frechet_distance
from unclip.evaluation.pictures import Brief, pictures_of_folder, real_pictures
from unclip.hub import any_clip
from unclip.pipeline import UnCLIP



@pytest.fixture
def labelled(tmp_path):
    """Real pictures of three classes, twenty each."""
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "classnames.txt").write_text("dog\ncat\nred car\n")
    files = [(f"{n}.{e}", c) for n in range(60) for e, c in (("png", png(n)), ("cls", b"%d" % (n % 3)))]
    write_tar(folder / "test" / "0.tar", files)
    return folder


@pytest.fixture
def evaluate(run_script, model_files, tmp_path):
    def run(*argv, model=model_files):
        return run_script("evaluate", *argv, "--model", model, "--out", tmp_path / "out", "--device", "cpu", "--rounds", "5")

    return run


@pytest.fixture
def plain_folder(tmp_path):
    def make(name, count=14, sides=(8,)):
        folder = tmp_path / name
        folder.mkdir()
        for k in range(count):
            side = sides[k % len(sides)]
            pixels = np.random.default_rng(k).integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{k}.png")
        return folder

    return make


def report_of(tmp_path):
    return json.loads((tmp_path / "out" / "report.json").read_text())


SET, PROMPT = {"frechet_distance", "kernel_distance", "cmmd", "precision", "recall", "density", "coverage"}, {"clip_score", "top1", "top5"}


def test_a_model_against_real_pictures(evaluate, labelled, tmp_path):
    code, out, err = evaluate("--data", labelled, "--num-images", "19", "--seed", "4")
    assert code == 0, err
    report = report_of(tmp_path)
    assert report["num_images"] == report["num_compared"] == 21  # rounded up to seven a class
    assert set(report["pictures"]) == set(report["real"]) == SET | PROMPT
    for part in ("pictures", "real"):
        assert all(f["num_samples"] == 21 and f["seed"] == 4 for f in report[part].values())
    # random pixels from a random model are farther from the real ones than these from each other
    assert report["pictures"]["frechet_distance"]["value"] > 2 * report["real"]["frechet_distance"]["value"]
    assert set(report["named"]) == {"dog", "cat", "red car"}
    assert {f["num_samples"] for f in report["named"].values()} == {7}
    assert sum(f["value"] for f in report["named"].values()) / 3 == pytest.approx(report["pictures"]["top1"]["value"])
    assert set(report["prior"]) == {"cosine", "cosine_text", "cosine_mean", "cosine_other", "recall_at_1", "recall_at_5", "recall_at_1_chance", "frechet_distance", "top1", "top1_true"}
    assert report["prior"]["cosine"]["num_samples"] == 60
    text = (tmp_path / "out" / "report.md").read_text()
    assert "real pictures, another half" in text and "prior, on 60 real captions" in text
    assert text.splitlines()[0] in out and str(tmp_path / "out" / "sheet.png") in out
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.height == 3 * (64 + 2) and sheet.width > 7 * 64


def test_against_all_real_pictures_it_is_the_distance_to_all(evaluate, labelled, plain_folder, model_files, tmp_path):
    """As published FIDs are taken, with no floor: nothing real is left over for one."""
    mine = plain_folder("mine", 9)
    assert evaluate("--images", mine, "--data", labelled, "--all-real", "--features", model_files / "clip")[0] == 0
    report = report_of(tmp_path)
    assert (report["num_compared"], report["num_real"]) == (9, 60) and "real" not in report
    assert "9 of them against 60 real ones" in (tmp_path / "out" / "report.md").read_text()
    figures = report["pictures"]
    assert (figures["precision"]["num_samples"], figures["recall"]["num_samples"]) == (9, 60)
    sees = ClipFeatures(any_clip(model_files / "clip"), "")
    drawn, real = (sees(to_float(p.images)) for p in (pictures_of_folder(mine), real_pictures(labelled, "test", 8)))
    assert figures["frechet_distance"]["value"] == pytest.approx(frechet_distance(drawn, real), rel=1e-4)


def test_the_decoder_alone_draws_from_embeddings_of_pictures_that_are_not_compared_with(evaluate, labelled, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(Brief, "draw", lambda brief, *rest, draw=Brief.draw, **options: (asked.append(brief), draw(brief, *rest, **options))[1])
    assert evaluate("--data", labelled, "--num-images", "18", "--true-embeddings")[0] == 0
    report = report_of(tmp_path)
    assert report["num_images"] == report["num_compared"] == 18 and "drawn from true embeddings" in (tmp_path / "out" / "report.md").read_text()
    real = real_pictures(labelled, "test", 8)
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(0))[18:36]  # the 18 before are those compared with
    real.embed(UnCLIP.from_pretrained(report["model"]).clip)
    assert torch.equal(asked[0].image_embed, real.image_embed[rows]) and torch.equal(asked[0].labels, real.labels[rows])


def test_the_same_command_gives_the_same_figures(evaluate, labelled, tmp_path):
    reports = []
    for _ in range(2):
        assert evaluate("--data", labelled, "--num-images", "9")[0] == 0
        reports.append(report_of(tmp_path))
    assert reports[0] == reports[1]


def test_concepts_without_real_pictures(evaluate, tmp_path):
    (tmp_path / "c.txt").write_text("dog\nred car\n")
    assert evaluate("--concepts", tmp_path / "c.txt", "--num-images", "5")[0] == 0
    report = report_of(tmp_path)
    assert report["num_images"] == 6 and set(report["pictures"]) == PROMPT and "real" not in report and "prior" not in report
    assert report["pictures"]["top5"]["value"] == 1  # of two


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_draws_in_what_was_asked_for_and_says_so(evaluate, monkeypatch, tmp_path, dtype):
    (tmp_path / "c.txt").write_text("dog\nred car\n")
    draw, drew = Brief.draw, []
    monkeypatch.setattr(Brief, "draw", lambda brief, model, *rest: drew.append(model) or draw(brief, model, *rest))
    assert evaluate("--concepts", tmp_path / "c.txt", "--num-images", "6", "--dtype", dtype)[0] == 0
    assert {part.dtype for part in (drew[0].prior, drew[0].decoder)} == {getattr(torch, dtype)}
    assert report_of(tmp_path)["dtype"] == dtype and f"dtype {dtype}" in (tmp_path / "out" / "report.md").read_text()


def test_the_model_may_be_replaced_while_it_draws(evaluate, model_copy, monkeypatch, tmp_path):
    """Whoever ships another during an hour of drawing loses nothing: what judges was read before."""
    (tmp_path / "c.txt").write_text("dog\nred car\n")
    draw = Brief.draw

    def moved_away(*args, **options):
        model_copy.rename(tmp_path / "elsewhere")
        return draw(*args, **options)

    monkeypatch.setattr(Brief, "draw", moved_away)
    assert evaluate("--concepts", tmp_path / "c.txt", "--num-images", "6", model=model_copy)[0] == 0
    assert set(report_of(tmp_path)["pictures"]) == PROMPT


def test_captions_of_its_own_data(evaluate, tmp_path):
    captioned_tar(tmp_path / "mine" / "test" / "0.tar", range(30))
    assert evaluate("--data", tmp_path / "mine", "--num-images", "10")[0] == 0
    report = report_of(tmp_path)
    assert set(report["pictures"]) == SET | {"clip_score"} and report["named"] == {}
    assert report["prior"]["cosine"]["num_samples"] == 30 and "top1" not in report["prior"]


def test_pictures_from_a_folder(evaluate, labelled, plain_folder, tmp_path):
    assert evaluate("--images", plain_folder("drawn"), "--data", labelled)[0] == 0
    report = report_of(tmp_path)
    assert set(report["pictures"]) == SET and report["model"] is None and report["side"] == 8
    assert report["num_compared"] == 14 and "prior" not in report


def test_a_plain_folder_as_the_reference(evaluate, plain_folder, tmp_path):
    """Of any sizes: they are brought to the pictures' own."""
    (tmp_path / "c.txt").write_text("dog\nred car\n")
    reference = plain_folder("photographs", count=24, sides=(8, 16))
    assert evaluate("--concepts", tmp_path / "c.txt", "--data", reference, "--num-images", "12")[0] == 0
    assert set(report_of(tmp_path)["pictures"]) == SET | PROMPT and set(report_of(tmp_path)["real"]) == SET


def test_what_was_measured_stays_when_an_evaluation_is_ended(evaluate, labelled, tmp_path, monkeypatch):
    """Ctrl-C at the second value of a sweep: the report has all that came before."""
    drawn = []
    draw = Brief.draw

    def third_is_too_much(brief, model, num_images, seed, settings, desc="drawing"):
        drawn.append(settings.guidance_scale)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(brief, model, num_images, seed, settings, desc)

    monkeypatch.setattr(Brief, "draw", third_is_too_much)
    code, _, err = evaluate("--data", labelled, "--num-images", "6", "--guidance-scale", "2", "--sweep", "guidance_scale=2,1,3,4")
    report = report_of(tmp_path)
    assert code == 2 and err[-1] == "error: stopped" and drawn == [2, 1, 3]  # the first value is the report's own
    assert set(report["pictures"]) == SET | PROMPT and "prior" in report
    assert [point["value"] for point in report["sweeps"][0]["points"]] == [2, 1]
    assert report["sweeps"][0]["points"][0]["pictures"] == report["pictures"]


def test_sweeps_are_tables_and_curves(evaluate, labelled, tmp_path):
    code, _, err = evaluate("--data", labelled, "--num-images", "6", "--guidance-scale", "1", "--sweep", "guidance_scale=1,2.5", "--sweep",
                            "prior_num_inference_steps=1,2,4")  # fmt: skip
    assert code == 0, err
    first, second = report_of(tmp_path)["sweeps"]
    assert [p["value"] for p in first["points"]] == [1.0, 2.5] and [p["value"] for p in second["points"]] == [1, 2, 4]
    assert "prior" in second["points"][0] and "prior" not in first["points"][0]
    assert first["points"][0]["pictures"] == report_of(tmp_path)["pictures"]  # the report's own value
    assert first["points"][0]["pictures"] != first["points"][1]["pictures"]
    # the model's own default is among the values: the point is the main row
    assert second["points"][1]["pictures"] == report_of(tmp_path)["pictures"]
    for name in ("guidance_scale", "prior_num_inference_steps"):
        with Image.open(tmp_path / "out" / f"sweep-{name}.png") as curve:
            assert curve.width > 400
    assert "pictures by guidance_scale" in (tmp_path / "out" / "report.md").read_text()


def test_words_that_are_said(evaluate, tmp_path):
    (tmp_path / "c.txt").write_text("dog\nred car\n")
    code, _, err = evaluate("--concepts", tmp_path / "c.txt", "--num-images", "5", "--say", "red", "--say", "black and white")
    assert code == 0, err
    said = report_of(tmp_path)["said"]
    assert list(said) == ["red", "black and white"] and said["red"]["with"]["num_samples"] == 6
    assert "| red |" in (tmp_path / "out" / "report.md").read_text()


def test_another_judge_and_other_features(evaluate, labelled, model_copy, tmp_path):
    """The same CLIP under another name judges the same."""
    assert evaluate("--data", labelled, "--num-images", "9")[0] == 0
    own = report_of(tmp_path)
    assert evaluate("--data", labelled, "--num-images", "9", "--judge", model_copy, "--features", model_copy / "clip")[0] == 0
    other = report_of(tmp_path)
    assert other["judge"] == str(model_copy) and other["features"] == str(model_copy / "clip")
    for name, figure in own["pictures"].items():  # one of the two scales its embeddings, which must not matter
        assert other["pictures"][name]["value"] == pytest.approx(figure["value"], abs=1e-3), name
    assert own["prior"] == other["prior"]


def test_a_cascade_is_judged_at_the_size_of_the_stage(evaluate, cascade_files, labelled, tmp_path):
    for stage, side in (("base", 8), ("upsampler-1", 16)):
        options = ("--stop-after", stage, "--upsampler-steps", "1")
        assert evaluate("--data", labelled, "--num-images", "6", *options, model=cascade_files)[0] == 0
        assert report_of(tmp_path)["side"] == side


@pytest.mark.parametrize("options, compared", [(["--all-real"], 24), ([], 6)])
def test_real_pictures_that_are_enlarged_are_counted_and_said(evaluate, cascade_files, plain_folder, tmp_path, options, compared):
    """Every second one is of 8x8, the others of 16x16: smaller than what the upsampler draws, not than what base does."""
    (tmp_path / "c.txt").write_text("dog\nred car\n")
    reference = plain_folder("photographs", count=24, sides=(8, 16))
    argv = ("--concepts", tmp_path / "c.txt", "--data", reference, "--num-images", "6", "--upsampler-steps", "1", *options)
    for stage in ("upsampler-1", "base"):
        code, out, err = evaluate(*argv, "--stop-after", stage, model=cascade_files)
        assert code == 0, err
        report, text = report_of(tmp_path), (tmp_path / "out" / "report.md").read_text()
        assert text.splitlines()[2] in out and report["num_real"] == compared
        if stage == "base":
            assert report["num_enlarged"] == 0 and "enlarged" not in text
        else:
            rows = torch.arange(24) if options else torch.randperm(24, generator=torch.Generator().manual_seed(0))[:compared]
            names = sorted(reference.iterdir())
            small = sum(Image.open(names[row]).width == 8 for row in rows)
            assert report["num_enlarged"] == small and 0 < small < compared
            assert f" Of the {compared} real ones, {small} are smaller than 16x16 and were enlarged to it. Judge: " in text


@pytest.mark.parametrize("labels", [True, False])
def test_enlarged_pictures_of_shards(evaluate, cascade_files, labelled, tmp_path, labels):
    folder = labelled if labels else captioned_tar(tmp_path / "mine" / "test" / "0.tar", range(30)).parents[1]
    options = ("--stop-after", "upsampler-1", "--upsampler-steps", "1", "--no-prior")
    assert evaluate("--data", folder, "--num-images", "9", *options, model=cascade_files)[0] == 0
    assert report_of(tmp_path)["num_enlarged"] == 9
    assert "Of the 9 real ones, 9 are smaller than 16x16 and were enlarged" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("argv, says", [
    ([], "nothing to draw"),
    (["--data", "{real}", "--num-images", "0"], "needs one picture at least"),
    (["--data", "{real}", "--num-images", "3"], "3 pictures to compare are too few"),
    (["--data", "nowhere"], "no folder nowhere"),
    (["--data", "{empty}"], "no pictures in"),
    (["--data", "{few}", "--concepts", "{concepts}"], "9 real pictures to compare with are too few"),
    (["--data", "{mixed}"], "give --concepts"),
    (["--images", "{mixed}", "--data", "{real}"], "different sizes (8x8, 9x9, ...)"),
    (["--images", "{few}", "--data", "{real}", "--sweep", "guidance_scale=1,2"], "leave --sweep"),
    (["--images", "{few}"], "give --data"),
    (["--concepts", "{concepts}", "--all-real"], "--all-real needs real pictures"),
    (["--data", "{real}", "--true-embeddings", "--concepts", "{concepts}"], "--true-embeddings are those of --data"),
    (["--data", "{real}", "--true-embeddings", "--sweep", "prior_num_samples=1,2"], "--true-embeddings ask no prior"),
    (["--data", "{real}", "--true-embeddings", "--sweep", "num_samples=1,2"], "--true-embeddings ask no prior and are drawn once"),
    (["--data", "{real}", "--true-embeddings", "--samples", "2"], "--true-embeddings are drawn once: leave --samples out"),
    (["--data", "{mixed}", "--true-embeddings"], "--true-embeddings need captions or classes"),
    (["--data", "{real}", "--seed", "-1"], "seed -1"),
    (["--data", "{real}", "--seed", "99999999999999999999"], "seed 99999999999999999999"),
    (["--data", "{real}", "--sweep", "guidance_scale=1,2", "--sweep", "guidance_scale=1,3"], "each setting once"),
    (["--data", "{captioned}", "--say", "red"], "--say needs concepts"),
    (["--concepts", "{concepts}", "--say", "left"], "--say left: no such reading; choose red, orange"),
    (["--data", "{real}", "--split", "val"], "has no split 'val'"),
    (["--concepts", "{one}"], "holds 1 concept: an"),
    (["--concepts", "missing.txt"], "missing.txt"),
    (["--data", "{real}", "--sweep", "guidance_scale"], "SETTING=VALUE,VALUE"),
    (["--data", "{real}", "--sweep", "guidance_scale=2"], "two values"),
    (["--data", "{real}", "--sweep", "guidance_scales=1,2"], "did you mean 'guidance_scale'"),
    (["--data", "{real}", "--sweep", "guidance_scale=1,much"], "guidance_scale"),
    (["--data", "{real}", "--sweep", "steps=1,2"], "all of them: num_inference_steps, guidance_scale"),
    (["--data", "{real}", "--sweep", "upsampler_blur=0,1"], "no upsampler draws here"),
    (["--data", "{real}", "--upsampler-steps", "3"], "this model has no upsampler"),
    (["--data", "{real}", "--rounds", "1"], "needs two rounds"),
    (["--data", "{real}", "--stop-after", "upsampler-1"], "no stage 'upsampler-1'"),
    (["--data", "{real}", "--judge", "no-such-clip"], "no-such-clip"),
    (["--data", "{real}", "--out", "{one}"], "is a file: name a folder"),
])  # fmt: skip
def test_bad_input_ends_in_one_line(run_script, model_files, labelled, plain_folder, tmp_path, argv, says):
    places = {"real": labelled, "few": plain_folder("few", 9), "mixed": plain_folder("mixed", 14, (8, 9)), "empty": tmp_path / "empty",
              "one": tmp_path / "one.txt", "concepts": tmp_path / "c.txt"}  # fmt: skip
    places["empty"].mkdir()
    places["captioned"] = captioned_tar(tmp_path / "captioned" / "test" / "0.tar", range(30)).parents[1]
    places["one"].write_text("dog\n")
    places["concepts"].write_text("dog\ncat\n")
    out = [] if "--out" in argv else ["--out", tmp_path / "out"]
    argv = [a.format(**places) for a in argv]
    code, _, err = run_script("evaluate", "--model", model_files, "--device", "cpu", *out, *argv)
    assert code == 2 and len(err) == 1 and err[0].startswith("error: ") and says in err[0]
    assert not (tmp_path / "out").exists()



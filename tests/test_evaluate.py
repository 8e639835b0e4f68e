import json

import pytest
from PIL import Image

from unclip.evaluation.generated import wilson


def test_wilson_equals_the_published_values():
    # Brown, Cai & DasGupta 2001 and textbooks: 5 of 10, and 0 of 10
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_every_concept_is_drawn_equally_often_and_judged(run_script, model_files, tmp_path):
    concepts = tmp_path / "concepts.txt"
    concepts.write_text("dog\ncat\nred car\n")
    code, out, err = run_script(
        "evaluate", "--model", model_files, "--concepts", concepts, "--num-images", 7,
        "--json", tmp_path / "e.json", "--grid", tmp_path / "e.png",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads((tmp_path / "e.json").read_text())
    assert report["num_images"] == 9  # rounded up to three a concept
    assert [c["num_images"] for c in report["classes"]] == [3, 3, 3]
    assert sum(c["recall"] * 3 for c in report["classes"]) == pytest.approx(report["top1"] * 9)
    low, high = report["interval95"]
    assert low <= report["top1"] <= high and report["top1"] <= report["top5"] == 1.0
    with Image.open(tmp_path / "e.png") as sheet:
        assert sheet.width == sheet.height > 3 * 8  # three rows of three


@pytest.mark.parametrize(
    "lines, count, says", [("dog\n", 5, "two concepts"), ("", 5, "two concepts"), ("dog\ncat\n", 0, "one picture")]
)
def test_too_little_to_judge_ends_in_one_line(run_script, model_files, tmp_path, lines, count, says):
    (tmp_path / "c.txt").write_text(lines)
    code, out, err = run_script(
        "evaluate", "--model", model_files, "--concepts", tmp_path / "c.txt", "--num-images", count
    )
    assert code == 2 and len(err) == 1 and says in err[0]

from PIL import Image


def test_every_picture_of_a_card(run_script, cascade_files, tmp_path):
    """Of a model with two upsamplers; principal components of a folder where one is given."""
    (tmp_path / "prompts.txt").write_text("a dog\na cat\na bridge\n")
    (tmp_path / "pictures").mkdir()
    for k in range(3):
        Image.new("RGB", (16, 16), (80 * k, 40, 200)).save(tmp_path / "pictures" / f"{k}.png")
    options = ("--model", cascade_files, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "card", "--device", "cpu")
    code, out, err = run_script("card", *options, "--pictures", tmp_path / "pictures")
    assert code == 0, err
    names = ["grid", "stages", "vary", "blend", "text", "inpaint", "redraw", "spread", "components"]
    assert out == [str(tmp_path / "card" / f"{name}.png") for name in names]
    sizes = {name: Image.open(tmp_path / "card" / f"{name}.png").size for name in names}
    side = sizes["redraw"][1]
    assert sizes["stages"] == (3 * (side + 2) - 2, 3 * (side + 2) - 2)  # a row a stage
    assert sizes["components"] == (3 * (side + 2) - 2, side)  # one component, two, and the picture itself


def test_bad_input_writes_nothing(run_script, cascade_files, tmp_path):
    code, _, err = run_script("card", "--model", cascade_files, "--prompts", tmp_path / "none.txt", "--out", tmp_path / "card")
    assert code == 2 and err == [f"error: no prompts file {tmp_path / 'none.txt'}: give a text file with a prompt a line"]
    assert not (tmp_path / "card").exists()

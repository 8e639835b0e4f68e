import sys

from PIL import Image

from unclip.plots import save_figure


def test_a_figure_of_the_size_that_was_asked_for(tmp_path):
    drawn = []
    assert save_figure(tmp_path / "a.png", (4, 2), drawn.append, "bench", "a machine") == [tmp_path / "a.png"]
    assert drawn[0].get_suptitle() == "a machine"
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG" and image.size == (480, 240)


def test_without_matplotlib_nothing_is_drawn_and_that_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # its import fails
    assert save_figure(tmp_path / "a.png", (4, 2), lambda figure: None, "bench") == []
    assert capsys.readouterr().err == 'no a.png: plots need pip install -e ".[bench]"\n'
    assert not any(tmp_path.iterdir())

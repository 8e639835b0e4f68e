from PIL import Image

from unclip.benchmark import scaling


class Side:
    """In the place of a process: runs that take as long as its batch says."""

    log = []

    def __init__(self, file, spec):
        self.spec = spec

    def ask(self):
        self.log.append("ask")

    def answer(self):
        self.log.append("answer")
        return {"seconds": self.spec["batch"] / 4, "parts": {}, "peak_bytes": 10}

    def close(self):
        self.log.append("close")


def test_processes_draw_at_the_same_time(monkeypatch):
    monkeypatch.setattr(scaling, "Side", Side)
    Side.log.clear()
    found = scaling.at_once({"batch": 8}, processes=3, rounds=2)
    assert found == {"images_per_second": 12.0, "seconds": 2.0, "peak_bytes": 10}  # 24 pictures in 2 seconds
    assert Side.log == (["ask"] * 3 + ["answer"] * 3) * 3 + ["close"] * 3


def test_what_changes_changes_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(scaling, "Side", Side)
    seen = []
    monkeypatch.setattr(scaling, "at_once", lambda spec, processes, rounds: seen.append((spec, processes)) or {
        "images_per_second": 1.0, "seconds": 2.0, "peak_bytes": None})  # fmt: skip
    measured = scaling.measure("a/decoder", cores=2, rounds=1)
    same = {"folder": "a/decoder", "batch": 8, "steps": 5, "size": None, "threads": 2}
    differs = [[key for key in same if spec[key] != same[key]] + ["processes"] * (processes > 1) for spec, processes in seen]
    assert all(len(keys) <= 1 or keys == ["threads", "processes"] for keys in differs)
    assert list(measured["processes of one thread"]) == [1, 2]  # not more than cores
    assert len(scaling.table(measured)) == len(seen) + 4
    assert scaling.plot(tmp_path / "scaling.png", "a machine", measured) == [tmp_path / "scaling.png"]
    with Image.open(tmp_path / "scaling.png") as image:
        assert image.format == "PNG"


def test_the_script_prints_and_names_what_it_wrote(run_script, monkeypatch, model_files, tmp_path):
    monkeypatch.setattr(scaling, "Side", Side)
    code, out, _ = run_script("benchmark", "scaling", "--model", model_files, "--rounds", "1", "--out", tmp_path)
    paths = [tmp_path / f"scaling.{kind}" for kind in ("json", "md", "png")]
    assert code == 0 and out[-3:] == [str(path) for path in paths] and all(path.is_file() for path in paths)
    assert out[:-3] == paths[1].read_text().splitlines()
    assert out[0].endswith(f"; model {model_files}, rounds 1")

import threading
from contextlib import nullcontext

import pytest
import torch
from conftest import CLIP_CONFIG, CONVOLUTIONS, TEXT_LENGTH, TEXT_WIDTH, D
from data.pictures import captioned_tar
from data.test_table import table

from unclip.contrastive import ContrastiveCLIP
from unclip.data.images import to_float
from unclip.data.stream import StreamBatches
from unclip.data.table import TableBatches
from unclip.data.texts import Read
from unclip.errors import UserError
from unclip.training.feed import Ahead, fed
from unclip.upsampler import Upsampler

from .toys import Batches

CPU = torch.device("cpu")


class Watched:
    """Notes the steps that it is asked for and the threads that ask; step 3 is broken."""

    def __init__(self):
        self.steps, self.threads, self.asked = [], set(), threading.Condition()

    def at(self, step):
        with self.asked:
            self.steps.append(step)
            self.threads.add(threading.current_thread())
            self.asked.notify_all()
        if step == 3:
            raise UserError("step 3 is broken")
        return {"step": step}

    def state(self):
        return {"after": self.steps[-1] if self.steps else None}

    def load(self, state):
        self.threads.add(threading.current_thread())
        self.steps = [state["after"]]

    def until(self, steps):
        with self.asked:
            assert self.asked.wait_for(lambda: self.steps == steps, timeout=10), self.steps


def test_on_the_cpu_batches_come_as_they_are():
    batches, before = Batches(), threading.active_count()
    with fed(batches, CPU) as given:
        given.at(0)
        assert given is batches and threading.active_count() == before


def test_the_batches_are_the_sources_also_after_a_jump():
    source = TableBatches(table(21), batch_size=8, seed=0)
    with Ahead(TableBatches(table(21), batch_size=8, seed=0)) as ahead:
        for step in (0, 1, 2, 3, 40, 41, 7, 7, 8):  # a run goes on elsewhere than it ended
            given, expected = ahead.at(step), source.at(step)
            assert given.keys() == expected.keys() and given["key"] == expected["key"]
            assert given["caption"] == expected["caption"] and torch.equal(given["image"], expected["image"])


def test_the_next_batch_is_prepared_by_one_other_thread_before_it_is_asked_for():
    source = Watched()
    with Ahead(source) as ahead:
        assert ahead.at(0) == {"step": 0}
        source.until([0, 1])
        assert ahead.at(1) == {"step": 1}
        source.until([0, 1, 2])
    assert len(source.threads) == 1 and threading.current_thread() not in source.threads


def test_an_error_comes_with_the_step_that_it_is_of():
    source = Watched()
    with Ahead(source) as ahead:
        assert ahead.at(2) == {"step": 2}
        source.until([2, 3])
        for _ in range(2):
            with pytest.raises(UserError, match="step 3 is broken"):
                ahead.at(3)
        assert ahead.at(4) == {"step": 4}


@pytest.mark.parametrize("error", [None, UserError("a line"), KeyboardInterrupt])
def test_no_thread_is_left(error):
    source = Watched()
    try:
        with Ahead(source) as ahead:
            ahead.at(0)
            if error is not None:
                raise error
    except (UserError, KeyboardInterrupt):
        pass
    assert source.threads and not any(thread.is_alive() for thread in source.threads)


def test_a_stream_with_processes_of_its_own_is_read_by_the_thread(tmp_path):
    captioned_tar(tmp_path / "0.tar", range(12))
    stream = StreamBatches([tmp_path / "0.tar"], 8, 4, 0, workers=1)
    with Ahead(stream) as ahead:
        keys = [ahead.at(step)["key"] for step in range(4)]
    again = StreamBatches([tmp_path / "0.tar"], 8, 4, 0, workers=1)
    assert keys == [again.at(step)["key"] for step in range(4)]


def test_a_state_is_that_of_the_batch_that_was_given_and_not_of_the_one_prepared():
    source = Watched()
    with Ahead(source) as ahead:
        assert ahead.state() == {"after": None}
        for step in (0, 1):
            ahead.at(step)
            source.until([*range(step + 2)])  # one ahead
            assert ahead.state() == {"after": step}
        ahead.load({"after": 6})
        assert ahead.state() == {"after": 6}
        ahead.at(2)  # which was prepared before
        source.until([6, 2, 3])
        assert ahead.state() == {"after": 2}
    assert len(source.threads) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_is_read_ahead_goes_on_where_the_training_was(tmp_path, workers):
    for shard in range(3):
        captioned_tar(tmp_path / f"{shard}.tar", range(10 * shard, 10 * shard + 10))

    def stream():
        return Read(StreamBatches(sorted(tmp_path.glob("*.tar")), 8, 4, 0, workers=workers), dict)

    with Ahead(stream()) as ahead:
        straight = [(ahead.at(step)["key"], ahead.state()) for step in range(12)]
    with Ahead(stream()) as ahead:
        ahead.load(straight[4][1])
        assert [(ahead.at(step)["key"], ahead.state()) for step in range(5, 12)] == straight[5:]


def test_torchs_generator_is_left_to_the_training():
    state = torch.get_rng_state()
    with Ahead(TableBatches(table(21), batch_size=8, seed=0)) as ahead:
        ahead.at(0), ahead.at(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def models(make_prior, make_decoder):
    upsampler = {"unet": CONVOLUTIONS, "image_size": 8, "scale": 2}
    clip = {**CLIP_CONFIG, "vision_cfg": {**CLIP_CONFIG["vision_cfg"], "image_size": 8, "patch_size": 4}}
    return {
        "prior": make_prior,
        "decoder": lambda: make_decoder(timestep_density="logit_normal"),
        "decoder with text": lambda: make_decoder(text_dim=TEXT_WIDTH, learned_variance=True, vlb_weight=1e-3),
        "upsampler": lambda: Upsampler(**upsampler),
        "upsampler of crops": lambda: Upsampler(**upsampler, crop=4, max_blur=0.3, residual=0.2, embed_dim=D),
        "upsampler of small pictures": lambda: Upsampler(**upsampler, crop=4, max_blur=0.3),
        "clip": lambda: ContrastiveCLIP(clip, crop=(4, 8), train_size=8, low_resolution=0.5, mix=0.5),
        "image tower": lambda: ContrastiveCLIP(clip, towers="image", num_labels=3, mix=0.5),
    }


@pytest.mark.parametrize(
    "name",
    [
        "prior", "decoder", "decoder with text", "upsampler", "upsampler of crops", "upsampler of small pictures", "clip",
        "image tower",
    ],
)  # fmt: skip
def test_no_loss_reads_what_lies_on_the_gpu(models, batch, name, monkeypatch):
    """To read a number there is to wait for all that the GPU has yet to do. A device without numbers stands for it, on
    which nothing can be read. And nothing is drawn on the CPU."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())  # which that device does not know
    truth, tokens = torch.eye(3, dtype=torch.int8), torch.ones(3, TEXT_LENGTH, dtype=torch.long)
    batch = {**batch, "tokens": tokens, "truth": truth, "label": torch.arange(3)}
    batch |= {"small": torch.zeros(3, 3, 4, 4, dtype=torch.uint8)} if name == "upsampler of small pictures" else {}
    batch = {key: value.to("meta") for key, value in batch.items()}
    model, state = models[name]().train().to("meta"), torch.get_rng_state()
    loss, time = model.loss(batch)
    loss.mean().backward()
    assert loss.is_meta and loss.shape == (3,) and (time is None or time.is_meta)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_on_a_gpu_are_the_sources_and_training_waits_for_nothing(models):
    device, source = torch.device("cuda", 0), TableBatches(table(200), batch_size=512, seed=0)
    layer = torch.nn.Linear(12, 1).to(device)
    with fed(TableBatches(table(200), batch_size=512, seed=0), device) as batches:
        torch.cuda.set_sync_debug_mode("error")
        try:
            given = [batches.at(step) for step in range(20)]
            for batch in given:
                layer(to_float(batch["image"]).flatten(1)).mean().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for step, batch in enumerate(given):
        expected = source.at(step)
        assert batch["image"].is_cuda and torch.equal(batch["image"].cpu(), expected["image"])
        assert torch.equal(batch["image_embed"].cpu(), expected["image_embed"]) and batch["key"] == expected["key"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["prior", "decoder", "decoder with text", "upsampler", "upsampler of crops"])
def test_a_loss_on_a_gpu_waits_for_nothing_and_validates_as_on_the_cpu(models, batch, name):
    model = models[name]().train()
    expected, _ = model.eval().loss(batch, torch.Generator().manual_seed(1))
    model.train().to("cuda")
    batch = {key: value.to("cuda") for key, value in batch.items()}
    model.loss(batch)  # the tables of the schedule are copied once
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.loss(batch)[0].mean().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    loss, _ = model.eval().loss(batch, torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss.cpu(), expected, rtol=2e-2, atol=1e-3)  # convolutions run in TensorFloat-32

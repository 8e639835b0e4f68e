"""Whether a config goes on with the run of another one: some settings may change on the way, most may not."""

# what may change from one start of a run to the next. Of the batch, only how it is divided among processes
FREE = {
    "out",
    *(f"data.{name}" for name in ("workers", "in_memory", "max_bad")),
    *(f"optimizer.{name}" for name in ("lr", "weight_decay", "betas", "warmup", "decay", "clip_norm")),
    *(f"train.{name}" for name in (
        "run", "batch_size", "accumulate", "steps", "minutes", "precision", "gradient_checkpointing", "compile",
        "log_every", "validate_every", "val_samples", "sample_every", "checkpoint_minutes", "keep_checkpoints", "max_skipped",
        "init_from",
    )),
}  # fmt: skip


def difference(before, processes_before, config, processes):
    """The first setting in which a run's config is another than the one it began with, in words, or None.

    before: what `save_config` wrote of that one, as a dict; config: a RunConfig; processes: how many train.
    """
    now = config.model_dump(mode="json", exclude_none=True)
    was, wanted = settled(before, processes_before), settled(now, processes)
    for name in [*was, *(name for name in wanted if name not in was)]:
        if was.get(name) != wanted.get(name):
            return f"{name} was {was.get(name)}, and is {wanted.get(name)} now"
    return None


def settled(config, processes):
    """{dotted name: value} of what must stay, and how many samples a step has in all."""
    flat = {name: value for name, value in flattened(config) if name not in FREE}
    train = config["train"]
    return {**flat, "the batch of all processes": train["batch_size"] * train["accumulate"] * processes}


def flattened(settings, prefix=""):
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value

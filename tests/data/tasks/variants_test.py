"""One task in all variants."""

import itertools

import pytest
import seqio

from prompt_tuning.data import seqio_tasks
from prompt_tuning.data.tasks import variants
from prompt_tuning.data.text import formats, metrics, postprocessors


@pytest.fixture
def clean():
    """The registries are as before at the end."""
    tasks, mixtures = (set(r.names()) for r in (seqio.TaskRegistry, seqio.MixtureRegistry))
    yield
    for registry, before in ((seqio.TaskRegistry, tasks), (seqio.MixtureRegistry, mixtures)):
        for name in set(registry.names()) - before:
            registry.remove(name)


def test_six_variants_of_a_task(clean, vocabulary):
    row = {"inputs": "films text: good", "targets": "yes"}
    task = variants.TextTask(
        source=seqio_tasks.InMemory({"train": [row]}),
        text_steps=[formats.remove_markup],
        index=2,
        postprocess=postprocessors.strip,
        metrics=[metrics.accuracy],
        samples_name="few films",
    )
    task.register("cinema")
    task.register("cinema")  # does nothing
    for prefix, suffix in itertools.product(variants.PREFIXES, variants.SUFFIXES):
        registered = seqio.TaskRegistry.get(f"{prefix}cinema{suffix}").replace(
            output_features=seqio_tasks.text_features(vocabulary.for_seqio())
        )
        [example] = registered.get_dataset(None, "train", shuffle=False).as_numpy_iterator()
        text = "text: good" if prefix else row["inputs"]
        ids = [*vocabulary.encode(text), 1]
        sentinel = [vocabulary.size - 3] if prefix == "task_index_" else []
        assert example["inputs"].tolist() == sentinel + ids
        assert example["inputs_pretokenized"].decode() == text
        # What is before the cache is kept in it; only EOS is added behind.
        steps = list(registered.preprocessors)
        place = next(
            i for i, step in enumerate(steps) if isinstance(step, seqio.CacheDatasetPlaceholder)
        )
        assert steps[place + 1 :] == [seqio.preprocessors.append_eos_after_trim]
        answer = registered.postprocess_fn(" yes", example=example, is_target=False)
        names = {k for metric in registered.metric_fns for k in metric(["yes"], [answer])}
        shown = {"few films samples", "few films negative samples"}
        assert names == {"accuracy"} | (shown if suffix else set())


def test_mixtures_are_of_one_variant_unless_their_tasks_say_otherwise(clean):
    for prefix, suffix in itertools.product(variants.PREFIXES, variants.SUFFIXES):
        for name in ("long", "short"):
            seqio.TaskRegistry.add(
                f"{prefix}{name}{suffix}",
                source=seqio_tasks.InMemory({"train": []}),
                preprocessors=[],
                output_features=seqio_tasks.text_features(),
            )
    patterns = ["{prefix}long", "{prefix}short{suffix}"]
    variants.register_mixture("{prefix}both{suffix}", patterns)
    variants.register_mixture("{prefix}both{suffix}", patterns)  # does nothing
    for prefix, suffix in itertools.product(variants.PREFIXES, variants.SUFFIXES):
        tasks = seqio.MixtureRegistry.get(f"{prefix}both{suffix}").tasks
        assert {task.name for task in tasks} == {f"{prefix}long", f"{prefix}short{suffix}"}

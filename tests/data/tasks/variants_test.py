"""All variants of a task and of a mixture."""

import functools
import itertools

import pytest
import seqio

from prompt_tuning.data import seqio_tasks
from prompt_tuning.data.tasks import variants
from prompt_tuning.data.text import formats, metrics, postprocessors


@pytest.fixture
def clean():
    """Restores the registries at the end."""
    tasks, mixtures = (set(r.names()) for r in (seqio.TaskRegistry, seqio.MixtureRegistry))
    yield
    for registry, before in ((seqio.TaskRegistry, tasks), (seqio.MixtureRegistry, mixtures)):
        for name in set(registry.names()) - before:
            registry.remove(name)


def test_six_variants_of_a_task(clean, vocabulary):
    row = {"inputs": "films text: good", "targets": "yes"}
    register = functools.partial(
        variants.register_task,
        "cinema",
        source=seqio_tasks.InMemory({"train": [row]}),
        text_steps=[formats.remove_markup],
        index=2,
        postprocess=postprocessors.strip,
        metrics=[metrics.accuracy],
        samples_name="few films",
    )
    register()
    register()  # does nothing
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
        # The cache holds the result of the steps before it; only EOS is added after it.
        steps = list(registered.preprocessors)
        cache = next(
            i for i, step in enumerate(steps) if isinstance(step, seqio.CacheDatasetPlaceholder)
        )
        assert steps[cache + 1 :] == [seqio.preprocessors.append_eos_after_trim]
        answer = registered.postprocess_fn(" yes", example=example, is_target=False)
        names = {k for metric in registered.metric_fns for k in metric(["yes"], [answer])}
        samples = {"few films samples", "few films negative samples"}
        assert names == {"accuracy"} | (samples if suffix else set())


def test_mixtures_have_the_variants_of_their_task_patterns(clean):
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

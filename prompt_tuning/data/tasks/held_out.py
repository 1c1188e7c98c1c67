"""GLUE and SuperGLUE with a validation set held out of the training data.

Lester et al.'s code compares token losses and label losses with these tasks:

BENCHMARK_NAME_generation_{train,test}                     generated predictions
BENCHMARK_NAME_rank_classification_{validation,test}       ranked labels
BENCHMARK_NAME_perceptron_{train,test}                     the examples of generation
BENCHMARK_NAME_generation, BENCHMARK_NAME_perceptron       mixtures of these

The perceptron tasks need no labels: optimizers/perceptron.gin takes them from the batch.
"""

import functools
import itertools

from prompt_tuning.data.tasks import benchmarks, glue, registry, super_glue, variants
from prompt_tuning.data.text import formats, ranking

# Number of training examples in the validation set.
HELD_OUT = {
    "glue": {"cola": 500, "sst2": 2000, "mrpc": 200, "qqp": 5000, "qnli": 3000, "rte": 200},
    "super_glue": {"boolq": 400, "cb": 50, "copa": 50, "rte": 200, "wic": 400},
}


def _register(benchmark: benchmarks.Benchmark, name: str, version: str, held_out: int) -> None:
    base = f"{benchmark.name}_{name}_v{version.replace('.', '')}"
    source, labels = benchmark.source(name, version), benchmark.data_sets[name].classes
    text_steps = [*benchmark.text_steps(name), formats.remove_first_text_token]
    validation = {"validation": f"train[-{held_out}:]"}
    train, test = {"train": f"train[:-{held_out}]", **validation}, {"validation": "validation"}
    both = (("train", train, "Valid"), ("test", test, "Test"))
    for loss, (kind, parts, samples_suffix) in itertools.product(
        ("generation", "perceptron"), both
    ):
        registry.add_task(
            f"{base}_{loss}_{kind}",
            source.with_parts(parts),
            text_steps,
            postprocess_fn=benchmark.postprocess(name),
            metric_fns=benchmark.metrics_of(name),
            samples_name=f"{name} {loss.capitalize()} {samples_suffix}",
        )
    for kind, parts in (("validation", validation), ("test", test)):
        registry.add_task(
            f"{base}_rank_classification_{kind}",
            source.with_parts(parts),
            [*text_steps, functools.partial(ranking.candidates, labels=labels)],
            postprocess_fn=ranking.candidate,
            metric_fns=[functools.partial(ranking.rank_classes, num_classes=len(labels))],
        )
    ranked = ("rank_classification_validation", "rank_classification_test")
    for loss, others in (("generation", ranked), ("perceptron", ())):
        kinds = (*others, f"{loss}_train", f"{loss}_test")
        variants.add_mixture(f"{base}_{loss}", [f"{base}_{kind}" for kind in kinds], 1.0)


for _benchmark, _version in (
    (glue.GLUE, glue.VERSIONS["v200"]),
    (super_glue.SUPER_GLUE, super_glue.VERSION),
):
    for _name, _count in HELD_OUT[_benchmark.name].items():
        _register(_benchmark, _name, _version, _count)

"""Tasks of prompt recycling (Lester et al., 2022): IMDB, SST-2, QQP and ReCoRD.

A validation set is held out of the training data. The validation split of the data set (IMDB: the
test split) is the test set, with generated predictions and with ranked candidates.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

from prompt_tuning.data.files import originals, text_files
from prompt_tuning.data.tasks import glue, registry, super_glue, variants
from prompt_tuning.data.text import formats, metrics, postprocessors, ranking

IMDB_VERBALIZERS = (("0", "1"), ("negative", "positive"))
QQP_VERBALIZERS = (
    ("not_duplicate", "duplicate"),
    ("0", "1"),
    ("unique", "duplicate"),
    ("not duplicate", "duplicate"),
)
_RANKS = functools.partial(ranking.rank_classes, num_classes=2)


def _register(
    name: str,
    source: originals.Source,
    *,
    held_out: int,
    test: str,
    text_steps: Sequence[Callable],
    postprocess: Callable,
    metrics: Sequence[Callable],
    rank_steps: Sequence[Callable],
    ranked: Mapping[str, Sequence[ranking.Metric]],
    train_kind: str,
) -> None:
    """Registers NAME_<train_kind>, NAME_test, ranking tasks, and the mixtures NAME, NAME_eval.

    The last `held_out` training examples are the validation split; `test` is the split of the other
    tasks. `ranked` maps the suffix of a ranking task to the metrics of its candidates.
    """
    train_parts = {"train": f"train[:-{held_out}]", "validation": f"train[-{held_out}:]"}
    test_source = source.with_parts({"validation": test})
    for kind, data in ((train_kind, source.with_parts(train_parts)), ("test", test_source)):
        registry.add_task(
            f"{name}_{kind}", data, text_steps, postprocess_fn=postprocess, metric_fns=metrics
        )
    for kind, metric_fns in ranked.items():
        registry.add_task(
            f"{name}_{kind}",
            test_source,
            rank_steps,
            postprocess_fn=ranking.candidate,
            metric_fns=metric_fns,
        )
    evaluated = [f"{name}_{kind}" for kind in ("test", *ranked)]
    variants.add_mixture(name, [f"{name}_{train_kind}", *evaluated], 1.0)
    variants.add_mixture(f"{name}_eval", evaluated, 1.0)


def _steps(text_steps: Sequence[Callable], labels: Sequence[str]) -> dict[str, Sequence]:
    """Returns the preprocessors of generation and of ranking labels."""
    rank = functools.partial(ranking.candidates, labels=labels)
    return {"text_steps": text_steps, "rank_steps": [*text_steps, rank]}


def _register_imdb(labels: Sequence[str]) -> None:
    normed = functools.partial(ranking.by_length, metric=_RANKS, prefix="normed_")
    _register(
        f"pr:imdb_v100_{'_'.join(labels)}_verbalizers",
        originals.Source(
            "imdb_reviews/plain_text:1.0.0",
            read=text_files.read_imdb,
            features={"text": "string", "label": "int64"},
            splits=("train", "test"),
        ),
        held_out=1000,
        test="test",
        **_steps(
            [functools.partial(formats.labelled_text, text_key="text", label_names=labels)], labels
        ),
        postprocess=postprocessors.strip,
        metrics=[metrics.accuracy],
        ranked={"test_rc": [_RANKS, normed] if labels == ("0", "1") else [_RANKS]},
        train_kind="train",
    )


def _register_sst2() -> None:
    text_steps = [*glue.text_steps("sst2"), formats.remove_first_text_token]
    _register(
        "pr:glue_sst2_v200",
        glue.GLUE.source("sst2", glue.VERSIONS["v200"]),
        held_out=1000,
        test="validation",
        **_steps(text_steps, glue.GLUE.data_sets["sst2"].classes),
        postprocess=glue.GLUE.postprocess("sst2"),
        metrics=glue.GLUE.metrics_of("sst2"),
        ranked={"test_rc": [_RANKS]},
        train_kind="train",
    )


def _register_qqp(labels: Sequence[str]) -> None:
    to_text = functools.partial(formats.glue, benchmark_name="qqp", label_names=labels)
    _register(
        f"pr:glue_qqp_v200_{'_'.join(labels).replace(' ', '_spc_')}_verbalizers",
        glue.GLUE.source("qqp", glue.VERSIONS["v200"]),
        held_out=10_000,
        test="validation",
        **_steps([to_text, formats.remove_first_text_token], labels),
        postprocess=functools.partial(postprocessors.class_id, names=labels),
        metrics=glue.GLUE.metrics_of("qqp"),
        ranked={
            "rc": [_RANKS],
            "rc_normed": [functools.partial(ranking.by_length, metric=_RANKS)],
        },
        train_kind="training",
    )


def _register_record() -> None:
    normed = functools.partial(ranking.by_length, metric=ranking.rank_accuracy, prefix="normed_")
    without_name = formats.remove_first_text_token
    _register(
        "pr:super_glue_record_v102",
        super_glue.SUPER_GLUE.source("record", super_glue.VERSION),
        held_out=10_000,
        test="validation",
        text_steps=[formats.record, without_name],
        postprocess=postprocessors.record,
        metrics=[metrics.record],
        rank_steps=[formats.record_with_entities, without_name, ranking.entities],
        ranked={"rc": [ranking.rank_accuracy, normed]},
        train_kind="training",
    )


for _labels in IMDB_VERBALIZERS:
    _register_imdb(_labels)
_register_sst2()
for _labels in QQP_VERBALIZERS:
    _register_qqp(_labels)
_register_record()

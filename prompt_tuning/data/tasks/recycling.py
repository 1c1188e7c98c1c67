"""Tasks of recycled prompts: IMDB, SST-2, QQP and ReCoRD.

Validation is held out of the training data; the data set's own validation (IMDB: test) is
evaluated by generating answers and by ranking them.
"""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Recycled:
    """Tasks of one data set.

    Attributes:
      source: the data set.
      held_out: examples at the end of its training data that are for validation.
      test: the split for evaluation.
      text_steps: make "inputs" and "targets".
      postprocess: of an answer that was generated.
      metrics: of what it returns.
      rank_steps: make candidates of what the source gives.
      ranked: ending of a task's name -> the metrics of its ranked candidates.
      train_name: ending of the name of the task to train on.
    """

    source: originals.Source
    held_out: int
    test: str
    text_steps: Sequence[Callable]
    postprocess: Callable
    metrics: Sequence[Callable]
    rank_steps: Sequence[Callable]
    ranked: Mapping[str, Sequence[ranking.Metric]]
    train_name: str

    def register(self, name: str) -> None:
        """NAME_train or NAME_training, NAME_test, those that rank, and mixtures NAME, NAME_eval."""
        of_train = {
            "train": f"train[:-{self.held_out}]",
            "validation": f"train[-{self.held_out}:]",
        }
        test = self.source.with_parts({"validation": self.test})
        for kind, data in ((self.train_name, self.source.with_parts(of_train)), ("test", test)):
            registry.add_task(
                f"{name}_{kind}",
                data,
                self.text_steps,
                postprocess_fn=self.postprocess,
                metric_fns=self.metrics,
            )
        for kind, metric_fns in self.ranked.items():
            registry.add_task(
                f"{name}_{kind}",
                test,
                self.rank_steps,
                postprocess_fn=ranking.candidate,
                metric_fns=metric_fns,
            )
        evaluated = [f"{name}_{kind}" for kind in ("test", *self.ranked)]
        variants.add_mixture(name, [f"{name}_{self.train_name}", *evaluated], 1.0)
        variants.add_mixture(f"{name}_eval", evaluated, 1.0)


def labelled(text_steps: Sequence[Callable], labels: Sequence[str]) -> dict[str, Sequence]:
    """The steps that make text, and those that rank the labels."""
    rank = functools.partial(ranking.candidates, labels=labels)
    return {"text_steps": text_steps, "rank_steps": [*text_steps, rank]}


def _register_imdb(labels: Sequence[str]) -> None:
    normed = functools.partial(ranking.by_length, metric=_RANKS, prefix="normed_")
    Recycled(
        source=originals.Source(
            "imdb_reviews/plain_text:1.0.0",
            read=text_files.read_imdb,
            features={"text": "string", "label": "int64"},
            splits=("train", "test"),
        ),
        held_out=1000,
        test="test",
        **labelled(
            [functools.partial(formats.labelled_text, text_key="text", label_names=labels)], labels
        ),
        postprocess=postprocessors.strip,
        metrics=[metrics.accuracy],
        ranked={"test_rc": [_RANKS, normed] if labels == ("0", "1") else [_RANKS]},
        train_name="train",
    ).register(f"pr:imdb_v100_{'_'.join(labels)}_verbalizers")


def _register_sst2() -> None:
    text_steps = [*glue.text_steps("sst2"), formats.remove_first_text_token]
    Recycled(
        source=glue.GLUE.source("sst2", glue.VERSIONS["v200"]),
        held_out=1000,
        test="validation",
        **labelled(text_steps, glue.GLUE.data_sets["sst2"].classes),
        postprocess=glue.GLUE.postprocess("sst2"),
        metrics=glue.GLUE.metrics_of("sst2"),
        ranked={"test_rc": [_RANKS]},
        train_name="train",
    ).register("pr:glue_sst2_v200")


def _register_qqp(labels: Sequence[str]) -> None:
    to_text = functools.partial(formats.glue, benchmark_name="qqp", label_names=labels)
    Recycled(
        source=glue.GLUE.source("qqp", glue.VERSIONS["v200"]),
        held_out=10_000,
        test="validation",
        **labelled([to_text, formats.remove_first_text_token], labels),
        postprocess=functools.partial(postprocessors.class_id, names=labels),
        metrics=glue.GLUE.metrics_of("qqp"),
        ranked={
            "rc": [_RANKS],
            "rc_normed": [functools.partial(ranking.by_length, metric=_RANKS)],
        },
        train_name="training",
    ).register(f"pr:glue_qqp_v200_{'_'.join(labels).replace(' ', '_spc_')}_verbalizers")


def _register_record() -> None:
    normed = functools.partial(ranking.by_length, metric=ranking.rank_accuracy, prefix="normed_")
    without_name = formats.remove_first_text_token
    Recycled(
        source=super_glue.SUPER_GLUE.source("record", super_glue.VERSION),
        held_out=10_000,
        test="validation",
        text_steps=[formats.record, without_name],
        postprocess=postprocessors.record,
        metrics=[metrics.record],
        rank_steps=[formats.record_with_entities, without_name, ranking.entities],
        ranked={"rc": [ranking.rank_accuracy, normed]},
        train_name="training",
    ).register("pr:super_glue_record_v102")


for _labels in IMDB_VERBALIZERS:
    _register_imdb(_labels)
_register_sst2()
for _labels in QQP_VERBALIZERS:
    _register_qqp(_labels)
_register_record()

"""Source tasks of SPoT (Vu et al., 2022), whose prompts initialize those of other tasks.

The inputs start with the name of the task.
"""

import functools

from prompt_tuning.data.files import glue_files, originals, text_files
from prompt_tuning.data.tasks import glue, qa, registry, summarization, variants
from prompt_tuning.data.text import answers, formats, metrics, questions

# Name in TFDS -> features with the text and its summary.
SUMMARIES = {
    "aeslc:1.0.0": ("email_body", "subject_line"),
    "billsum:3.0.0": ("text", "summary"),
    "cnn_dailymail:3.2.0": ("article", "highlights"),
    "gigaword:1.2.0": ("document", "summary"),
    "multi_news:1.0.0": ("document", "summary"),
    "newsroom:1.0.0": ("text", "summary"),
    "samsum:1.0.0": ("dialogue", "summary"),
}
_SPLITS = {"billsum:3.0.0": ("train", "test", "ca_test")}
_THREE_WAYS = ("entailment", "neutral", "contradiction")
# Name in TFDS -> feature with the premise, labels.
INFERENCE = {
    **{f"anli/r{i}:0.1.0": ("context", _THREE_WAYS) for i in (1, 2, 3)},
    "doc_nli:1.0.0": ("premise", ("not_entailment", "entailment")),
    "snli:1.1.0": ("premise", _THREE_WAYS),
}


def _names(tfds_name: str) -> tuple[str, str]:
    """Returns name and version in tasks: anli/r1:0.1.0 -> anli_r1, v010."""
    name, _, version = tfds_name.partition(":")
    return name.replace("/", "_"), f"v{version.replace('.', '')}"


for _tfds_name, (_source_key, _target_key) in SUMMARIES.items():
    _name, _version = _names(_tfds_name)
    summarization.register(
        f"spot_{_name}_{_version}",
        _tfds_name,
        _source_key,
        _target_key,
        splits=_SPLITS.get(_tfds_name, summarization.SPLITS),
        prefix=f"{_name} summarize:",
    )

for _tfds_name, (_premise, _labels) in INFERENCE.items():
    _name, _version = _names(_tfds_name)
    _columns = {"hypothesis": "string", _premise: "string", "label": "int64"}
    _format = functools.partial(
        formats.glue,
        benchmark_name=_name,
        label_names=_labels,
        keys=("hypothesis", _premise),
    )
    registry.add_task(
        f"spot_{_name}_{_version}",
        originals.Source(
            _tfds_name,
            read=functools.partial(text_files.read_columns, columns=_columns, label_names=_labels),
            features=_columns,
            splits=("train", "validation", "test"),
        ),
        [_format, formats.one_line],
        metric_fns=[metrics.accuracy],
    )

for _name, _file_name in {"squad": "SQuAD", **qa.IN_DOMAIN}.items():
    registry.add_task(
        f"spot_mrqa_{_name}_v100",
        qa.mrqa_source(_name, _file_name, ("train", "validation")),
        [functools.partial(questions.mrqa, task_name=_name)],
        postprocess_fn=questions.all_answers,
        metric_fns=[answers.squad],
    )


def _register_glue(name: str, data: originals.Source) -> None:
    """Registers a GLUE task as in `glue`, with separate tasks for MNLI's validation sets."""
    task = data.name.partition("/")[2].partition(":")[0]
    registry.add_task(
        f"spot_glue_{name}_v200",
        data,
        glue.text_steps(task),
        postprocess_fn=glue.GLUE.postprocess(task),
        metric_fns=glue.GLUE.metrics_of(task),
    )


for _name in ("cola", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"):
    _register_glue(_name, glue.GLUE.source(_name, glue.VERSIONS["v200"]))
_register_glue("mnli_train", glue.GLUE.source("mnli", glue.VERSIONS["v200"], ["train"]))
for _kind in ("matched", "mismatched"):
    _register_glue(
        f"mnli_validation_{_kind}",
        originals.Source(
            "glue/mnli:2.0.0",
            read=functools.partial(glue_files.read, f"mnli_{_kind}"),
            features=glue_files.DATA_SETS["mnli"].features,
            splits={"validation": f"validation_{_kind}"},
        ),
    )
variants.add_mixture(
    "spot_glue_mnli_and_dev_v200",
    [
        f"spot_glue_mnli_{_part}_v200"
        for _part in ("train", "validation_matched", "validation_mismatched")
    ],
    1.0,
)

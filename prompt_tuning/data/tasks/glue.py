"""GLUE (Wang et al., 2018) as text-to-text tasks: all variants of glue_*_v002 and glue_*_v200.

v002 and v200 are the versions 1.0.0 and 2.0.0 of TFDS, which differ in QQP.
"""

import functools
from collections.abc import Callable

from prompt_tuning.data.files import glue_files
from prompt_tuning.data.tasks import benchmarks, variants
from prompt_tuning.data.text import formats, metrics, postprocessors

VERSIONS = {"v002": "1.0.0", "v200": "2.0.0"}
_NAMES = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
# Sentinels of task_index_ tasks.
INDICES = {name: index for index, name in enumerate(_NAMES)} | dict.fromkeys(
    ("mnli_matched", "mnli_mismatched", "ax"), _NAMES.index("mnli")
)


def text_steps(name: str) -> tuple[Callable, ...]:
    """Returns the text format of a task; mnli_* and the diagnostic set ax have that of MNLI."""
    if name == "stsb":
        return (formats.stsb,)
    to_text = functools.partial(
        formats.glue,
        benchmark_name="mnli" if name.startswith("mnli") or name == "ax" else name,
        label_names=glue_files.DATA_SETS[name].classes,
    )
    return (to_text,)


GLUE = benchmarks.Benchmark(
    name="glue",
    data_sets=glue_files.DATA_SETS,
    read=glue_files.read,
    text_steps=text_steps,
    metrics={
        "cola": (metrics.matthews,),
        "mrpc": (metrics.f1, metrics.accuracy),
        "qqp": (metrics.f1, metrics.accuracy),
        "stsb": (metrics.pearson, metrics.spearman),
        "ax": (),
    },
    postprocessors={"stsb": postprocessors.number},
)

for _name in glue_files.DATA_SETS:
    for _suffix, _version in VERSIONS.items():
        variants.register_task(
            f"glue_{_name}_{_suffix}",
            source=GLUE.source(_name, _version),
            text_steps=text_steps(_name),
            index=INDICES[_name],
            postprocess=GLUE.postprocess(_name),
            metrics=GLUE.metrics_of(_name),
            samples_name=_name,
        )

for _suffix in VERSIONS:
    variants.register_mixture(
        f"{{prefix}}glue_mnli_and_dev_{_suffix}{{suffix}}",
        [
            f"{{prefix}}glue_{_name}_{_suffix}{{suffix}}"
            for _name in ("mnli", "mnli_mismatched", "mnli_matched")
        ],
    )
# As in t5, rates are numbers of training examples.
variants.add_mixture(
    "glue_v002_proportional",
    [
        ("glue_cola_v002", 8_551.0),
        ("glue_sst2_v002", 67_349.0),
        ("glue_mrpc_v002", 3_668.0),
        ("glue_qqp_v002", 363_849.0),
        ("glue_stsb_v002", 5_749.0),
        ("glue_mnli_v002", 392_702.0),
        ("glue_qnli_v002", 104_743.0),
        ("glue_rte_v002", 2_490.0),
        ("glue_mnli_mismatched_v002", 0.0),
        ("glue_mnli_matched_v002", 0.0),
        ("glue_ax_v002", 0.0),
    ],
)

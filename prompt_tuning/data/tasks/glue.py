"""GLUE (Wang et al., 2018) as text to text: glue_*_v002 and glue_*_v200, in all variants.

v002 and v200 are the versions 1.0.0 and 2.0.0 of TFDS; QQP is another data set in each.
"""

import functools
from collections.abc import Callable

from prompt_tuning.data.files import glue_files
from prompt_tuning.data.tasks import benchmarks, variants
from prompt_tuning.data.text import formats, metrics, postprocessors

VERSIONS = {"v002": "1.0.0", "v200": "2.0.0"}
# Sentinels of task_index_ tasks; MNLI's other parts are MNLI.
INDICES = {
    **{
        name: index
        for index, name in enumerate(
            ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
        )
    },
    **dict.fromkeys(("mnli_matched", "mnli_mismatched", "ax"), 1),
}


def text_steps(name: str) -> tuple[Callable, ...]:
    """The format of a GLUE task; MNLI's other parts and the diagnostic set are MNLI."""
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
        variants.TextTask(
            source=GLUE.source(_name, _version),
            text_steps=text_steps(_name),
            index=INDICES[_name],
            postprocess=GLUE.postprocess(_name),
            metrics=GLUE.metrics_of(_name),
            samples_name=_name,
        ).register(f"glue_{_name}_{_suffix}")

for _suffix in VERSIONS:
    variants.register_mixture(
        f"{{prefix}}glue_mnli_and_dev_{_suffix}{{suffix}}",
        [
            f"{{prefix}}glue_{_name}_{_suffix}{{suffix}}"
            for _name in ("mnli", "mnli_mismatched", "mnli_matched")
        ],
    )
# At the rates of t5: training examples.
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

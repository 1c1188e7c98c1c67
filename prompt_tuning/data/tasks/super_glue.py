"""SuperGLUE (Wang et al., 2019) as text-to-text tasks: all variants of super_glue_*_v102.

For WSC the model predicts the referent of a pronoun. It can only learn from examples whose
candidate is correct, so training and evaluation are separate tasks. Definite pronoun resolution
(dpr) is additional training data.
"""

import functools
from collections.abc import Callable

import seqio

from prompt_tuning.data.files import originals, super_glue_files
from prompt_tuning.data.tasks import benchmarks, variants
from prompt_tuning.data.text import formats, metrics, postprocessors

VERSION = "1.0.2"
_NAMES = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
# Sentinels of task_index_ tasks.
INDICES = {name: index for index, name in enumerate(_NAMES)} | dict.fromkeys(
    ("axb", "axg"), _NAMES.index("rte")
)
# Rates in mixtures: numbers of training examples.
RATES = {
    "super_glue_wsc_v102_simple_train": 259.0,
    "super_glue_wsc_v102_simple_eval": 0.0,
    "super_glue_boolq_v102": 9_427.0,
    "super_glue_cb_v102": 250.0,
    "super_glue_copa_v102": 400.0,
    "super_glue_multirc_v102": 27_243.0,
    "super_glue_record_v102": 138_854.0,
    "super_glue_rte_v102": 2_490.0,
    "super_glue_wic_v102": 5_428.0,
}
DPR_RATES = {"dpr_v001_simple": 1_322.0}
_KEYS = {
    "multirc": ("question", "answer", "paragraph"),
    "wic": ("sentence1", "sentence2", "word"),
}
_AS_RTE = {"premise": "sentence1", "hypothesis": "sentence2", "label": "label", "idx": "idx"}


def text_steps(name: str) -> tuple[Callable, ...]:
    """Returns the text format of a task; the diagnostic sets axb and axg have that of RTE."""
    if name == "record":
        return (formats.record,)
    to_text = functools.partial(
        formats.glue,
        benchmark_name="rte" if name.startswith("ax") else name,
        label_names=super_glue_files.DATA_SETS[name].classes,
        keys=_KEYS.get(name, ()),
    )
    if name == "axb":
        return functools.partial(seqio.preprocessors.rekey, key_map=_AS_RTE), to_text
    return (to_text, formats.remove_markup) if name == "multirc" else (to_text,)


SUPER_GLUE = benchmarks.Benchmark(
    name="super_glue",
    data_sets=super_glue_files.DATA_SETS,
    read=super_glue_files.read,
    text_steps=text_steps,
    metrics={
        "cb": (functools.partial(metrics.macro_f1, num_classes=3), metrics.accuracy),
        "multirc": (metrics.multirc,),
        "record": (metrics.record,),
        "axb": (),
        "axg": (),
    },
    postprocessors={"multirc": postprocessors.multirc, "record": postprocessors.record},
)


def _register_wsc() -> None:
    parts = (
        ("train", ("train",), True, postprocessors.strip, ()),
        ("eval", ("validation", "test"), False, postprocessors.wsc, (metrics.accuracy,)),
    )
    for part, splits, correct_only, postprocess, metric_fns in parts:
        variants.register_task(
            f"super_glue_wsc_v102_simple_{part}",
            source=SUPER_GLUE.source("wsc.fixed", VERSION, splits),
            text_steps=(functools.partial(formats.wsc, correct_only=correct_only),),
            index=INDICES["wsc"],
            postprocess=postprocess,
            metrics=metric_fns,
            samples_name="wsc",
        )
    variants.register_mixture(
        "{prefix}super_glue_wsc_and_dev_v102_simple{suffix}",
        [f"{{prefix}}super_glue_wsc_v102_simple_{part}{{suffix}}" for part, *_ in parts],
    )


def _register_definite_pronouns() -> None:
    variants.register_task(
        "dpr_v001_simple",
        source=originals.Source(
            "definite_pronoun_resolution:1.1.0",
            read=super_glue_files.read_definite_pronouns,
            features=super_glue_files.DEFINITE_PRONOUN_FEATURES,
            splits=("train", "test"),
        ),
        text_steps=(formats.definite_pronoun,),
        index=INDICES["wsc"],
        postprocess=postprocessors.strip,
        metrics=(metrics.accuracy,),
        samples_name="dpr",
    )


def _register_proportional() -> None:
    """Registers mixtures of SuperGLUE by number of examples, with and without dpr."""

    def indexed(rates):
        # WSC's training task is never evaluated, so it has no samples to show.
        return [
            (f"task_index_{name}{'' if name.endswith('train') else '_examples'}", rate)
            for name, rate in rates.items()
        ]

    all_rates = {**DPR_RATES, **RATES}
    # Only t5's mixture includes the diagnostic sets, which have no training examples.
    with_diagnostics = {**all_rates, "super_glue_axb_v102": 0.0, "super_glue_axg_v102": 0.0}
    variants.add_mixture("task_index_super_glue_v102_examples_proportional", indexed(RATES))
    variants.add_mixture(
        "task_index_super_glue_with_dpr_v102_examples_proportional", indexed(all_rates)
    )
    variants.add_mixture("super_glue_v102_proportional", with_diagnostics.items())


for _name in super_glue_files.DATA_SETS:
    if _name == "wsc.fixed":
        continue
    variants.register_task(
        f"super_glue_{_name}_v102",
        source=SUPER_GLUE.source(_name, VERSION),
        text_steps=text_steps(_name),
        index=INDICES[_name],
        postprocess=SUPER_GLUE.postprocess(_name),
        metrics=SUPER_GLUE.metrics_of(_name),
        samples_name=_name,
    )
_register_wsc()
_register_definite_pronouns()
_register_proportional()

"""GLUE in T5's text format, from TFDS; `taskless_` variants lack the task's name in front."""

import functools

import seqio

from prompt_tuning.data import features, metrics, postprocessors, preprocessors


def _register(name: str, *format_steps) -> None:
    if name in seqio.TaskRegistry.names():
        return
    seqio.TaskRegistry.add(
        name,
        source=seqio.TfdsDataSource("glue/sst2:2.0.0"),
        preprocessors=[
            *format_steps,
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=features.features(),
        postprocess_fn=postprocessors.strip,
        metric_fns=[metrics.accuracy],
    )


_SST2 = functools.partial(
    preprocessors.glue, benchmark_name="sst2", label_names=("negative", "positive")
)
_register("glue_sst2_v200_examples", _SST2)
_register("taskless_glue_sst2_v200_examples", _SST2, preprocessors.remove_first_text_token)

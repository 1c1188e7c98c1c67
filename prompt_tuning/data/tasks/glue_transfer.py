"""Zero-shot transfer between the paraphrase tasks QQP and MRPC.

glue_mrpc_from_qqp_v002 is the validation split of MRPC for a model that predicts QQP's labels;
the mixture glue_mrpc_from_qqp_zeroshot_v002 trains on QQP and is evaluated on MRPC.
"""

import functools

from prompt_tuning.data.tasks import glue, variants
from prompt_tuning.data.text import postprocessors

_POSITIVE = {"qqp": "duplicate", "mrpc": "equivalent"}

for _source, _target in (("qqp", "mrpc"), ("mrpc", "qqp")):
    _name = f"glue_{_target}_from_{_source}"
    variants.register_task(
        f"{_name}_v002",
        source=glue.GLUE.source(_target, glue.VERSIONS["v002"], ("validation",)),
        text_steps=glue.text_steps(_target),
        index=glue.INDICES[_target],
        postprocess=functools.partial(
            postprocessors.renamed,
            old=_POSITIVE[_source],
            new=_POSITIVE[_target],
            postprocess=glue.GLUE.postprocess(_target),
        ),
        metrics=glue.GLUE.metrics_of(_target),
        samples_name=_target,
    )
    variants.register_mixture(
        f"{{prefix}}{_name}_zeroshot_v002{{suffix}}",
        [f"{{prefix}}glue_{_source}_v002", f"{{prefix}}{_name}_v002{{suffix}}"],
    )

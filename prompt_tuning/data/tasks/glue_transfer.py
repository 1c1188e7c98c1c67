"""QQP and MRPC, each evaluated with a prompt of the other: are two sentences paraphrases?

glue_mrpc_from_qqp_v002 is the validation split of MRPC for a model that answers in QQP's
words; the mixture glue_mrpc_from_qqp_zeroshot_v002 trains on QQP and is evaluated on it.
"""

import functools

from prompt_tuning.data.tasks import glue, variants
from prompt_tuning.data.text import postprocessors

_SAME = {"qqp": "duplicate", "mrpc": "equivalent"}

for _source, _target in (("qqp", "mrpc"), ("mrpc", "qqp")):
    _name = f"glue_{_target}_from_{_source}"
    variants.TextTask(
        source=glue.GLUE.source(_target, glue.VERSIONS["v002"], ("validation",)),
        text_steps=glue.text_steps(_target),
        index=glue.INDICES[_target],
        postprocess=functools.partial(
            postprocessors.renamed,
            old=_SAME[_source],
            new=_SAME[_target],
            postprocess=glue.GLUE.postprocess(_target),
        ),
        metrics=glue.GLUE.metrics_of(_target),
        samples_name=_target,
    ).register(f"{_name}_v002")
    variants.register_mixture(
        f"{{prefix}}{_name}_zeroshot_v002{{suffix}}",
        [f"{{prefix}}glue_{_source}_v002", f"{{prefix}}{_name}_v002{{suffix}}"],
    )

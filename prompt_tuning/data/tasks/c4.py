"""Objectives on C4, the text that T5 was pre-trained on.

Only span corruption joins documents, with EOS between them, where t5 has none.
"""

import functools

from prompt_tuning.data.files import originals, text_files
from prompt_tuning.data.tasks import registry
from prompt_tuning.data.text import denoising, preprocessors

_RANDOM_TARGETS = functools.partial(denoising.random_targets, targets=("positive", "negative"))
OBJECTIVES = {
    # What T5 1.1 is pre-trained with, and then adapted to: text that goes on.
    "span_corruption": [preprocessors.span_corruption],
    "prefix_lm": [denoising.prefix_lm],
    "bart_text_infilling": [denoising.text_infilling],
    "bart_token_deletion": [denoising.token_deletion],
    # Teaches the verbalizers of a sentiment task and nothing else.
    "random_positive_negative_targets": [denoising.prefix_lm, _RANDOM_TARGETS],
}

for _name, _steps in OBJECTIVES.items():
    registry.add_pretraining_task(
        f"c4_v220_{_name}",
        originals.Source(
            "c4/en:2.2.0",
            read=text_files.read_c4,
            features={"text": "string"},
            splits=("train", "validation"),
            streams=True,
        ),
        _steps,
    )

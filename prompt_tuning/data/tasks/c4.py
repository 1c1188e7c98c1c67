"""Pre-training objectives on C4, the corpus of T5.

Only span corruption concatenates documents. It puts EOS between them, unlike t5.
"""

import functools

from prompt_tuning.data.files import originals, text_files
from prompt_tuning.data.tasks import registry
from prompt_tuning.data.text import preprocessors

_RANDOM_TARGETS = functools.partial(preprocessors.random_targets, targets=("positive", "negative"))
OBJECTIVES = {
    # T5 1.1's objectives of pre-training and of LM adaptation.
    "span_corruption": [preprocessors.span_corruption],
    "prefix_lm": [preprocessors.document_prefix_lm],
    "bart_text_infilling": [preprocessors.text_infilling],
    "bart_token_deletion": [preprocessors.token_deletion],
    # Teaches only the verbalizers of a sentiment task.
    "random_positive_negative_targets": [preprocessors.document_prefix_lm, _RANDOM_TARGETS],
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

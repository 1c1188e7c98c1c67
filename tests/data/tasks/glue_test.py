import importlib

import numpy as np
import pytest
import seqio

from prompt_tuning.data import features, in_memory
from prompt_tuning.data.tasks import glue

ROWS = [
    {"idx": 0, "label": np.int64(1), "sentence": "a fine film "},
    {"idx": 1, "label": np.int64(0), "sentence": "dull "},
]


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("glue_sst2_v200_examples", "sst2 sentence: a fine film "),
        ("taskless_glue_sst2_v200_examples", "sentence: a fine film "),
    ],
)
def test_registered_task(vocabulary, name, inputs):
    registered = seqio.TaskRegistry.get(name)
    assert registered.source.tfds_dataset.name == "glue/sst2:2.0.0"
    assert registered.output_features["inputs"].vocabulary is features.MODEL_VOCABULARY
    assert [metric.__name__ for metric in registered.metric_fns] == ["accuracy"]
    assert registered.postprocess_fn(" positive", example={}, is_target=False) == "positive"
    task = registered.replace(
        source=in_memory.InMemory({"train": ROWS}),
        output_features=features.features(vocabulary.for_seqio()),
    )
    first, second = task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()
    assert first["inputs_pretokenized"].decode() == inputs
    assert first["inputs"].tolist() == [*vocabulary.encode(inputs), 1]
    assert second["targets"].tolist() == [*vocabulary.encode("negative"), 1]


def test_importing_again_registers_nothing_twice():
    importlib.reload(glue)

"""Zero-shot transfer between QQP and MRPC."""

import pytest
import seqio

from prompt_tuning.data.tasks import glue_transfer  # noqa: F401

PAIRS = (("qqp", "mrpc"), ("mrpc", "qqp"))
VARIANTS = [(p, s) for p in ("", "taskless_", "task_index_") for s in ("", "_examples")]


@pytest.mark.parametrize(("prefix", "suffix"), VARIANTS)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_variant_has_its_source_and_mixture(prefix, suffix, source, target):
    name = f"{prefix}glue_{target}_from_{source}"
    task = seqio.TaskRegistry.get(f"{name}_v002{suffix}")
    assert task.source.name == f"glue/{target}:1.0.0" and list(task.splits) == ["validation"]
    mixture = seqio.MixtureRegistry.get(f"{name}_zeroshot_v002{suffix}")
    rates = {subtask.name: mixture.get_rate(subtask) for subtask in mixture.tasks}
    assert rates == {f"{prefix}glue_{source}_v002": 1.0, task.name: 1.0}


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("glue_mrpc_from_qqp_v002", "duplicate", 1),
        ("glue_mrpc_from_qqp_v002", "not_duplicate", 0),
        ("glue_mrpc_from_qqp_v002", "same", -1),
        ("task_index_glue_qqp_from_mrpc_v002", "equivalent", 1),
        ("taskless_glue_qqp_from_mrpc_v002", "not_equivalent", 0),
    ],
)
def test_predictions_are_labels_of_the_source_task(name, answer, expected):
    target = ("not_" if expected == 0 else "") + (
        "equivalent" if "mrpc_from" in name else "duplicate"
    )
    example = {"inputs_pretokenized": b"a", "targets_pretokenized": target.encode()}
    for suffix in ("", "_examples"):
        task = seqio.TaskRegistry.get(name + suffix)
        label = task.postprocess_fn(target, example=example, is_target=True)
        predicted = task.postprocess_fn(answer, example=example, is_target=False)
        assert label == (0 if expected == 0 else 1)
        values = {}
        for metric in task.metric_fns:
            values |= metric([label], [predicted])
        assert values["accuracy"] == (100.0 if label == expected else 0.0)
        # Samples show the text that the model generated.
        assert (predicted["prediction_pretokenized"] if suffix else answer) == answer
        assert ("mrpc samples" in values) == (bool(suffix) and "mrpc_from" in name)

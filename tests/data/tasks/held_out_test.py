"""GLUE and SuperGLUE with a validation set held out of the training data."""

import json

import pytest
import seqio

from prompt_tuning.data import pipeline, sources
from prompt_tuning.data.tasks import held_out  # noqa: F401

# Task -> data set in TFDS, number of held-out examples, names of the ranking metrics.
TWO = ["accuracy", "f1", "auc-roc", "auc-pr"]
TASKS = {
    "glue_cola_v200": ("glue/cola:2.0.0", 500, TWO),
    "glue_sst2_v200": ("glue/sst2:2.0.0", 2000, TWO),
    "glue_mrpc_v200": ("glue/mrpc:2.0.0", 200, TWO),
    "glue_qqp_v200": ("glue/qqp:2.0.0", 5000, TWO),
    "glue_qnli_v200": ("glue/qnli:2.0.0", 3000, TWO),
    "glue_rte_v200": ("glue/rte:2.0.0", 200, TWO),
    "super_glue_boolq_v102": ("super_glue/boolq:1.0.2", 400, TWO),
    "super_glue_cb_v102": ("super_glue/cb:1.0.2", 50, ["accuracy", "mean_3class_f1"]),
    "super_glue_copa_v102": ("super_glue/copa:1.0.2", 50, TWO),
    "super_glue_rte_v102": ("super_glue/rte:1.0.2", 200, TWO),
    "super_glue_wic_v102": ("super_glue/wic:1.0.2", 400, TWO),
}
KINDS = (
    "generation_train",
    "generation_test",
    "rank_classification_validation",
    "rank_classification_test",
)


def test_all_names_of_the_reference_are_registered():
    parts = ("_generation_", "_rank_class", "_perceptron_")
    names = {n for n in seqio.TaskRegistry.names() if any(part in n for part in parts)}
    kinds = (*KINDS, "perceptron_train", "perceptron_test")
    assert names == {f"{name}_{kind}" for name in TASKS for kind in kinds}


@pytest.mark.parametrize("name", TASKS)
def test_splits_metrics_and_mixtures(name):
    tfds_name, count, metrics = TASKS[name]
    validation, test = {"validation": f"train[-{count}:]"}, {"validation": "validation"}
    parts = ({"train": f"train[:-{count}]", **validation}, test, validation, test)
    tasks = [seqio.TaskRegistry.get(f"{name}_{kind}") for kind in KINDS]
    for task, expected in zip(tasks, parts, strict=True):
        assert task.source.name == tfds_name
        splits = task.source.splits
        assert {s: task.source.tfds_dataset._map_split(s) for s in splits} == expected
    classes = 3 if "cb" in name else 2
    label = {"is_correct": True, "targets": [5]}
    targets = [
        tasks[2].postprocess_fn("", example=label | {"idx": [i // classes, 0]}, is_target=True)
        for i in range(2 * classes)
    ]
    [metric] = tasks[2].metric_fns
    assert list(metric(targets, [0.0] * len(targets))) == metrics
    mixture = seqio.MixtureRegistry.get(f"{name}_generation")
    assert {t.name: mixture.get_rate(t) for t in mixture.tasks} == dict.fromkeys(
        [f"{name}_{kind}" for kind in KINDS], 1.0
    )
    mixture = seqio.MixtureRegistry.get(f"{name}_perceptron")
    assert {task.name for task in mixture.tasks} == {
        f"{name}_perceptron_train",
        f"{name}_perceptron_test",
    }
    for kind, same in (("train", tasks[0]), ("test", tasks[1])):
        task = seqio.TaskRegistry.get(f"{name}_perceptron_{kind}")
        assert task.source.splits == same.source.splits
        assert len(task.predict_metric_fns) == len(same.predict_metric_fns)


def test_a_mixture_has_generated_and_ranked_predictions(tmp_path, vocabulary):
    for part, count in (("train", 52), ("val", 2)):
        rows = [
            {"premise": f"{part} {i}", "hypothesis": "h", "label": "neutral", "idx": i}
            for i in range(count)
        ]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def opened(split):
        source = sources.TaskSource(name="super_glue_cb_v102_generation", data_dir=str(tmp_path))
        lengths = {"inputs": 64, "targets": 16}
        config = pipeline.DatasetConfig(source, lengths, split, batch_size=2)
        return {t.name: t for t in pipeline.evaluation_tasks(config, vocabulary)}

    (train,) = opened("train").values()
    assert [train.text(e, "inputs") for e in train.examples] == [
        f"hypothesis: h premise: train {i}" for i in range(2)
    ]
    tasks = opened("validation")
    counts = [len(tasks[f"super_glue_cb_v102_{kind}"].examples) for kind in KINDS]
    assert counts == [50, 2, 150, 6]
    test = tasks["super_glue_cb_v102_generation_test"]
    metrics = test.metrics(["neutral", "entailment"], None)
    assert metrics["accuracy"] == 50.0 and "cb Generation Test samples" in metrics
    ranked = tasks["super_glue_cb_v102_rank_classification_test"]
    labels = [ranked.text(e, "targets") for e in ranked.examples]
    assert labels == ["entailment", "contradiction", "neutral"] * 2
    assert ranked.metrics([""] * 6, [-3.0, -2.0, -1.0] * 2)["accuracy"] == 100.0

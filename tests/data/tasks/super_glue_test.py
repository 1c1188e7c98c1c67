"""SuperGLUE's tasks: names, sources, examples as text and ids, metrics."""

import importlib

import pytest
import seqio

from prompt_tuning.data import seqio_tasks
from prompt_tuning.data.files import originals, super_glue_files
from prompt_tuning.data.tasks import super_glue

NAMES = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "axb", "axg")
PREFIXES = ("", "taskless_", "task_index_")
SUFFIXES = ("", "_examples")
# Task -> example of label 1, its inputs and target, the metrics, the index of the sentinel.
TASKS = {
    "super_glue_boolq_v102": (
        {"question": "q", "passage": "p"},
        "boolq passage: p question: q",
        "True",
        ["accuracy"],
        0,
    ),
    "super_glue_cb_v102": (
        {"premise": "p", "hypothesis": "h"},
        "cb hypothesis: h premise: p",
        "contradiction",
        ["mean_3class_f1", "accuracy"],
        1,
    ),
    "super_glue_copa_v102": (
        {"premise": "p", "choice1": "a", "choice2": "b", "question": "effect"},
        "copa choice1: a choice2: b premise: p question: effect",
        "choice2",
        ["accuracy"],
        2,
    ),
    "super_glue_multirc_v102": (
        {
            "paragraph": "<b>Sent 1: </b>p<br>",
            "question": "q",
            "answer": "a",
            "idx": {"paragraph": 1, "question": 2, "answer": 3},
        },
        "multirc question: q answer: a paragraph: Sent 1: p ",
        "True",
        ["f1", "exact_match"],
        3,
    ),
    "super_glue_record_v102": (
        {
            "passage": "p\n@highlight\nr",
            "query": "q",
            "entities": ["Ann", "Bob"],
            "answers": ["Bob"],
            "idx": {"passage": 1, "query": 2},
        },
        "record query: q entities: Ann, Bob passage: p. r",
        "Bob",
        ["em", "f1"],
        4,
    ),
    "super_glue_rte_v102": (
        {"premise": "p", "hypothesis": "h"},
        "rte hypothesis: h premise: p",
        "not_entailment",
        ["accuracy"],
        5,
    ),
    "super_glue_wic_v102": (
        {
            "word": "w",
            "sentence1": "a",
            "sentence2": "b",
            **dict.fromkeys(("start1", "start2", "end1", "end2"), 4),
        },
        "wic sentence1: a sentence2: b word: w",
        "True",
        ["accuracy"],
        6,
    ),
    "super_glue_axb_v102": (
        {"sentence1": "p", "sentence2": "h"},
        "rte hypothesis: h premise: p",
        "not_entailment",
        [],
        5,
    ),
    "super_glue_axg_v102": (
        {"premise": "p", "hypothesis": "h"},
        "rte hypothesis: h premise: p",
        "not_entailment",
        [],
        5,
    ),
    "super_glue_wsc_v102_simple_eval": (
        {
            "text": "Bob said it",
            "span1_text": "Bob",
            "span2_text": "it",
            "span1_index": 0,
            "span2_index": 2,
        },
        "wsc: Bob said *it*",
        "Bob",
        ["accuracy"],
        7,
    ),
    "dpr_v001_simple": (
        {"sentence": "Bob saw Tom as he ran.", "pronoun": "he", "candidates": ["Bob", "Tom"]},
        "wsc: Bob saw Tom as *he* ran.",
        "Tom",
        ["accuracy"],
        7,
    ),
}
TASKS["super_glue_wsc_v102_simple_train"] = (*TASKS["super_glue_wsc_v102_simple_eval"][:3], [], 7)


def test_all_names_of_the_reference_are_registered():
    bases = {f"super_glue_{name}_v102" for name in NAMES}
    bases |= {"super_glue_wsc_v102_simple_train", "super_glue_wsc_v102_simple_eval"}
    bases |= {"dpr_v001_simple"}
    names = {
        f"{prefix}{base}{suffix}" for prefix in PREFIXES for base in bases for suffix in SUFFIXES
    }
    # 12 are names of the t5 library; samples of dpr and of WSC's training are in neither.
    assert len(names) == 58 + 12 + 2 and set(TASKS) == bases
    assert names <= set(seqio.TaskRegistry.names())


def dtypes(value):
    """The dtypes of TFDS: int32 for numbers except labels."""
    if isinstance(value, dict):
        features = {name: dtypes(feature) for name, feature in value.items()}
        return features | {"label": "int64"} if "label" in value else features
    if isinstance(value, list):
        return ["string"]
    return "string" if isinstance(value, str) else "int32"


@pytest.mark.parametrize("name", TASKS)
def test_text_ids_and_metrics_of_an_example(vocabulary, tmp_path, name):
    example, inputs, target, metrics, sentinel = TASKS[name]
    example = {"idx": 0, "label": 1, **example}
    taskless = inputs.partition(" ")[2]
    ids = vocabulary.encode(taskless)
    expected = {
        "": (inputs, vocabulary.encode(inputs)),
        "taskless_": (taskless, ids),
        "task_index_": (taskless, [vocabulary.size - 1 - sentinel, *ids]),
    }
    for prefix, (text, tokens) in expected.items():
        registered = seqio.TaskRegistry.get(f"{prefix}{name}")
        source = originals.Source(
            registered.source.name,
            read=lambda folder, split: [example],
            features=dtypes(example),
            splits=["train"],
        )
        task = registered.replace(
            source=source.in_folder(tmp_path),
            output_features=seqio_tasks.text_features(vocabulary.for_seqio()),
        )
        [example_ids] = task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()
        assert example_ids["inputs_pretokenized"].decode() == text
        assert example_ids["inputs"].tolist() == [*tokens, 1]
        assert example_ids["targets"].tolist() == [*vocabulary.encode(target), 1]
    right, answer, wrong = (
        task.postprocess_fn(text, example=example_ids, is_target=is_target)
        for text, is_target in ((target, True), (target, False), ("neither", False))
    )
    ranges = {}
    for metric in task.metric_fns:
        best, worst = metric([right], [answer]), metric([right], [wrong])
        assert best.keys() == worst.keys()
        ranges |= {key: (best[key], worst[key]) for key in best}
    assert list(ranges) == metrics
    for key, values in ranges.items():
        best = 100.0 / (3 if key == "mean_3class_f1" else 1)
        assert values == pytest.approx((best, 0.0)), key


@pytest.mark.parametrize("name", TASKS)
def test_sources_and_splits(name):
    for prefix in PREFIXES:
        for suffix in SUFFIXES:
            task = seqio.TaskRegistry.get(f"{prefix}{name}{suffix}")
            assert task.supports_caching
    tfds_name = name.removeprefix("super_glue_").partition("_")[0]
    tfds_name = "wsc.fixed" if tfds_name == "wsc" else tfds_name
    source = f"super_glue/{tfds_name}:1.0.2"
    splits = ["train", "validation", "test"]
    if name.startswith("dpr"):
        source, splits = "definite_pronoun_resolution:1.1.0", ["train", "test"]
    elif tfds_name in ("axb", "axg"):
        splits = ["test"]
    elif "wsc" in name:
        splits = ["train"] if name.endswith("train") else ["validation", "test"]
    assert (task.source.name, list(task.splits)) == (source, splits)


def rates(name):
    mixture = seqio.MixtureRegistry.get(name)
    return {task.name: mixture.get_rate(task) for task in mixture.tasks}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_mixture_of_wsc_has_its_training_and_evaluation_tasks(prefix, suffix):
    mixture = f"{prefix}super_glue_wsc_and_dev_v102_simple{suffix}"
    name = f"{prefix}super_glue_wsc_v102_simple_"
    assert rates(mixture) == {f"{name}train{suffix}": 1.0, f"{name}eval{suffix}": 1.0}


def test_proportional_mixtures_have_sizes_as_rates():
    sizes = {
        "boolq": 9_427, "cb": 250, "copa": 400, "multirc": 27_243, "record": 138_854, "rte": 2_490,
        "wic": 5_428,
    }  # fmt: skip
    expected = {f"task_index_super_glue_{k}_v102_examples": v for k, v in sizes.items()}
    expected["task_index_super_glue_wsc_v102_simple_train"] = 259
    expected["task_index_super_glue_wsc_v102_simple_eval_examples"] = 0
    assert rates("task_index_super_glue_v102_examples_proportional") == expected
    expected["task_index_dpr_v001_simple_examples"] = 1_322
    assert rates("task_index_super_glue_with_dpr_v102_examples_proportional") == expected
    plain = {
        name.removeprefix("task_index_").removesuffix("_examples"): rate
        for name, rate in expected.items()
    }
    diagnostics = {"super_glue_axb_v102": 0, "super_glue_axg_v102": 0}
    assert rates("super_glue_v102_proportional") == plain | diagnostics


def test_the_module_can_be_reloaded():
    importlib.reload(super_glue)


def test_every_data_set_is_a_task():
    assert {*NAMES, "wsc.fixed"} == set(super_glue_files.DATA_SETS)

"""SQuAD and MRQA from original files, their mixtures, names and metrics."""

import json

import pytest
import seqio

from prompt_tuning.data import pipeline, sources
from prompt_tuning.data.tasks import qa

SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "Ann won, not Bo.",
                    "qas": [
                        {"id": "7", "question": "Who?", "answers": [{"text": "Ann"}]},
                        {
                            "id": "8",
                            "question": "Who not?",
                            "answers": [{"text": "Bo."}, {"text": "the Bo"}, {"text": "b"}],
                        },
                    ],
                }
            ]
        }
    ]
}
NAMES = {
    "squad_v010_allanswers_examples",
    "mrqa_bio_asq_v100_examples",
    "mrqa_drop_v100_examples",
    "mrqa_duo_rc_v100_examples",
    "mrqa_hotpot_qa_v100_examples",
    "mrqa_natural_questions_v100_examples",
    "mrqa_news_qa_v100_examples",
    "mrqa_race_v100_examples",
    "mrqa_relation_extraction_v100_examples",
    "mrqa_search_qa_v100_examples",
    "mrqa_textbook_qa_v100_examples",
    "mrqa_trivia_qa_v100_examples",
}
OUT_OF_DOMAIN = ("bio_asq", "drop", "duo_rc", "race", "relation_extraction", "textbook_qa")


@pytest.fixture
def folder(tmp_path):
    """SQuAD's two files and one set out of its domain."""
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        (tmp_path / name).write_text(json.dumps(SQUAD))
    question = {"qid": "9", "question": "Which?", "answers": ["x", "an x"]}
    rows = [{"header": {"dataset": "RACE"}}, {"context": "x or y", "qas": [question]}]
    (tmp_path / "RACE.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path)


def opened(name, folder, vocabulary, split="validation"):
    config = pipeline.DatasetConfig(
        source=sources.TaskSource(name=name, data_dir=folder),
        task_feature_lengths={"inputs": 64, "targets": 32},
        split=split,
        batch_size=2,
    )
    return pipeline.evaluation_tasks(config, vocabulary)


def test_all_names_and_mixtures_are_registered():
    names = {n for n in seqio.TaskRegistry.names() if n.startswith(("squad_", "mrqa_"))}
    assert names == NAMES
    mixtures = {n for n in seqio.MixtureRegistry.names() if n.startswith("squad_to_")}
    assert mixtures == {f"squad_to_{name}_examples" for name in (*OUT_OF_DOMAIN, "mrqa")}
    tasks = seqio.get_subtasks(seqio.MixtureRegistry.get("squad_to_mrqa_examples"))
    assert sorted(task.name for task in tasks) == sorted(
        [qa.SQUAD, *(f"mrqa_{name}_v100_examples" for name in OUT_OF_DOMAIN)]
    )


BOTH = {"train": "train", "validation": "validation"}


@pytest.mark.parametrize(
    ("name", "tfds_name", "splits"),
    [
        ("squad_v010_allanswers_examples", "squad/v1.1:3.0.0", BOTH),
        *(
            (f"mrqa_{name}_v100_examples", f"mrqa/{name}:1.0.0", BOTH)
            for name in ("hotpot_qa", "natural_questions", "news_qa", "search_qa", "trivia_qa")
        ),
        *(
            (f"mrqa_{name}_v100_examples", f"mrqa/{name}:1.0.0", {"validation": "test"})
            for name in OUT_OF_DOMAIN
        ),
    ],
)
def test_data_sets_and_splits(name, tfds_name, splits):
    source = seqio.TaskRegistry.get(name).source
    assert source.name == tfds_name
    assert {s: source.tfds_dataset._map_split(s) for s in source.splits} == splits


FILES = {
    "hotpot_qa": "HotpotQA",
    "natural_questions": "NaturalQuestions",
    "news_qa": "NewsQA",
    "search_qa": "SearchQA",
    "trivia_qa": "TriviaQA",
    "bio_asq": "BioASQ",
    "drop": "DROP",
    "duo_rc": "DuoRC",
    "race": "RACE",
    "relation_extraction": "RelationExtraction",
    "textbook_qa": "TextbookQA",
}


@pytest.mark.parametrize("name", FILES)
def test_a_data_set_is_read_from_its_original_file(tmp_path, name):
    """With the file name and the header of the shared task."""
    question = {"qid": "9", "question": "Which?", "answers": ["x"]}
    rows = [{"header": {"dataset": FILES[name]}}, {"context": "x or y", "qas": [question]}]
    (tmp_path / f"{FILES[name]}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = seqio.TaskRegistry.get(f"mrqa_{name}_v100_examples").source.in_folder(tmp_path)
    [example] = source.get_dataset("validation").as_numpy_iterator()
    assert example["question"] == b"Which?"


def test_squad_accepts_all_answers(folder, vocabulary):
    (task,) = opened("squad_v010_allanswers_examples", folder, vocabulary)
    inputs = "question: Who not ? context: Ann won , not Bo . "
    assert task.text(task.examples[1], "inputs") == inputs
    assert task.examples[1]["inputs"].tolist() == [*vocabulary.encode(inputs), 1]
    assert task.examples[1]["targets"].tolist() == [*vocabulary.encode("Bo . "), 1]
    metrics = task.metrics(["Ann", "the Bo"], None)
    assert (metrics["em"], metrics["f1"]) == (100.0, 100.0)
    metrics = task.metrics(["Bo", "b"], None)
    assert (metrics["em"], metrics["f1"]) == (50.0, 50.0)
    sample = f"input: {inputs}\ntarget: Bo . ; b; the Bo\nprediction: b"
    # "b" is one of its answers.
    assert sample in metrics["squad samples"] and sample not in metrics["squad negative samples"]
    assert "prediction: Bo" in metrics["squad negative samples"]


def test_a_mixture_trains_on_squad_and_is_evaluated_on_both(folder, vocabulary):
    tasks = {t.name: t for t in opened("squad_to_race_examples", folder, vocabulary)}
    assert tasks.keys() == {qa.SQUAD, "mrqa_race_v100_examples"}
    race = tasks["mrqa_race_v100_examples"]
    assert race.text(race.examples[0], "inputs") == "question: Which ? context: x or y"
    (trained,) = opened("squad_to_race_examples", folder, vocabulary, split="train")
    assert trained.name == qa.SQUAD


def test_a_missing_file_is_named(folder, vocabulary):
    with pytest.raises(FileNotFoundError, match=r"TASK_DATA_DIR .*dev/DROP\.jsonl"):
        opened("squad_to_drop_examples", folder, vocabulary)

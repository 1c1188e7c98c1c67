"""Source tasks of SPoT."""

import json

import pytest
import seqio

from prompt_tuning.data import pipeline, sources
from prompt_tuning.data.tasks import spot  # noqa: F401

GLUE = (
    "cola",
    "mnli_train",
    "mnli_validation_matched",
    "mnli_validation_mismatched",
    "mrpc",
    "qnli",
    "qqp",
    "rte",
    "sst2",
    "stsb",
    "wnli",
)
NAMES = {
    "spot_aeslc_v100",
    "spot_anli_r1_v010",
    "spot_anli_r2_v010",
    "spot_anli_r3_v010",
    "spot_billsum_v300",
    "spot_cnn_dailymail_v320",
    "spot_doc_nli_v100",
    *(f"spot_glue_{name}_v200" for name in GLUE),
    "spot_gigaword_v120",
    "spot_mrqa_hotpot_qa_v100",
    "spot_mrqa_natural_questions_v100",
    "spot_mrqa_news_qa_v100",
    "spot_mrqa_search_qa_v100",
    "spot_mrqa_squad_v100",
    "spot_mrqa_trivia_qa_v100",
    "spot_multi_news_v100",
    "spot_newsroom_v100",
    "spot_samsum_v100",
    "spot_snli_v110",
}


def test_names():
    assert {n for n in seqio.TaskRegistry.names() if n.startswith("spot_")} == NAMES
    mixture = seqio.MixtureRegistry.get("spot_glue_mnli_and_dev_v200")
    splits = {task.name: tuple(task.splits) for task in seqio.get_subtasks(mixture)}
    assert splits == {
        "spot_glue_mnli_train_v200": ("train",),
        "spot_glue_mnli_validation_matched_v200": ("validation",),
        "spot_glue_mnli_validation_mismatched_v200": ("validation",),
    }


def test_validation_of_mnli_is_a_split_of_the_whole():
    source = seqio.TaskRegistry.get("spot_glue_mnli_validation_mismatched_v200").source
    assert source.name == "glue/mnli:2.0.0"
    assert source.tfds_dataset._map_split("validation") == "validation_mismatched"


@pytest.mark.parametrize(
    ("name", "file", "rows", "inputs", "target"),
    [
        (
            "spot_anli_r2_v010",
            "test.jsonl",
            [{"context": "c", "hypothesis": "h", "label": 2}],
            "anli_r2 hypothesis: h context: c",
            "contradiction",
        ),
        (
            "spot_doc_nli_v100",
            "test.jsonl",
            [{"premise": "p", "hypothesis": "h", "label": 1}],
            "doc_nli hypothesis: h premise: p",
            "entailment",
        ),
        (
            "spot_aeslc_v100",
            "test.jsonl",
            [{"email_body": "dear you", "subject_line": "re: you"}],
            "aeslc summarize: dear you",
            "re: you",
        ),
        (
            "spot_glue_mnli_validation_matched_v200",
            "dev_matched.tsv",
            "sentence1\tsentence2\tgold_label\np\th\tneutral\n",
            "mnli hypothesis: h premise: p",
            "neutral",
        ),
        (
            "spot_mrqa_squad_v100",
            "dev/SQuAD.jsonl",
            [
                {"header": {"dataset": "SQuAD"}},
                {"context": "c", "qas": [{"qid": "1", "question": "q", "answers": ["a"]}]},
            ],
            "squad question: q context: c",
            "a",
        ),
    ],
)
def test_formats(tmp_path, vocabulary, name, file, rows, inputs, target):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)
    config = pipeline.DatasetConfig(
        source=sources.TaskSource(name=name, data_dir=str(tmp_path)),
        task_feature_lengths={"inputs": 64, "targets": 32},
        split="test" if file.startswith("test") else "validation",
        batch_size=1,
    )
    (task,) = pipeline.evaluation_tasks(config, vocabulary)
    (example,) = task.examples
    assert (task.text(example, "inputs"), task.text(example, "targets")) == (inputs, target)

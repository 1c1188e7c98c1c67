"""Source tasks of SPoT."""

import json
import re

import pytest
import seqio

from prompt_tuning.data import pipeline, sources
from prompt_tuning.data.tasks import spot  # noqa: F401

SPLITS = ("train", "validation", "test")
# Task -> data set in TFDS, splits.
SOURCES = {
    "spot_aeslc_v100": ("aeslc:1.0.0", SPLITS),
    "spot_billsum_v300": ("billsum:3.0.0", ("train", "test", "ca_test")),
    "spot_cnn_dailymail_v320": ("cnn_dailymail:3.2.0", SPLITS),
    "spot_gigaword_v120": ("gigaword:1.2.0", SPLITS),
    "spot_multi_news_v100": ("multi_news:1.0.0", SPLITS),
    "spot_newsroom_v100": ("newsroom:1.0.0", SPLITS),
    "spot_samsum_v100": ("samsum:1.0.0", SPLITS),
    **{f"spot_anli_r{i}_v010": (f"anli/r{i}:0.1.0", SPLITS) for i in (1, 2, 3)},
    "spot_doc_nli_v100": ("doc_nli:1.0.0", SPLITS),
    "spot_snli_v110": ("snli:1.1.0", SPLITS),
    **{
        f"spot_mrqa_{name}_v100": (f"mrqa/{name}:1.0.0", ("train", "validation"))
        for name in ("hotpot_qa", "natural_questions", "news_qa", "search_qa", "squad", "trivia_qa")
    },
    "spot_glue_mnli_train_v200": ("glue/mnli:2.0.0", ("train",)),
    **{
        f"spot_glue_mnli_validation_{kind}_v200": ("glue/mnli:2.0.0", ("validation",))
        for kind in ("matched", "mismatched")
    },
    **{
        f"spot_glue_{name}_v200": (f"glue/{name}:2.0.0", SPLITS)
        for name in ("cola", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
    },
}


def test_all_names_are_registered():
    assert {n for n in seqio.TaskRegistry.names() if n.startswith("spot_")} == set(SOURCES)
    mixture = seqio.MixtureRegistry.get("spot_glue_mnli_and_dev_v200")
    splits = {task.name: tuple(task.splits) for task in seqio.get_subtasks(mixture)}
    assert splits == {
        "spot_glue_mnli_train_v200": ("train",),
        "spot_glue_mnli_validation_matched_v200": ("validation",),
        "spot_glue_mnli_validation_mismatched_v200": ("validation",),
    }


def test_validation_of_mnli_is_a_split_of_mnli():
    source = seqio.TaskRegistry.get("spot_glue_mnli_validation_mismatched_v200").source
    assert source.name == "glue/mnli:2.0.0"
    assert source.tfds_dataset._map_split("validation") == "validation_mismatched"


@pytest.mark.parametrize("name", SOURCES)
def test_data_sets_and_splits(name):
    source = seqio.TaskRegistry.get(name).source
    assert (source.name, tuple(source.splits)) == SOURCES[name]


def nli(name, premise, label, target):
    """A row of the original file, and its inputs and target."""
    row = {premise: "p\n\n q", "hypothesis": "h", "label": label}
    inputs = f"{name} hypothesis: h {premise}: p q"
    return f"spot_{name}", "test.jsonl", [row], inputs, target


def summary(name, source_key, target_key):
    row = {source_key: "dear\n you", target_key: "re: you"}
    inputs = f"{name} summarize: dear\n you"
    return f"spot_{name}", "test.jsonl", [row], inputs, "re: you"


def questions(name, file):
    question = {"qid": "1", "question": "q", "answers": ["a"]}
    rows = [{"header": {"dataset": file}}, {"context": "c", "qas": [question]}]
    inputs = f"{name} question: q context: c"
    return f"spot_mrqa_{name}", f"dev/{file}.jsonl", rows, inputs, "a"


def glue(name, header, row, inputs, target, file="dev.tsv"):
    return f"spot_glue_{name}", file, f"{header}\n{row}\n", inputs, target


PAIR = "sentence1\tsentence2\tlabel"
MNLI = ("sentence1\tsentence2\tgold_label", "p\th\tneutral", "mnli hypothesis: h premise: p")
FORMATS = [
    nli("anli_r1", "context", 0, "entailment"),
    nli("anli_r2", "context", 2, "contradiction"),
    nli("anli_r3", "context", "neutral", "neutral"),
    nli("doc_nli", "premise", 1, "entailment"),
    nli("doc_nli", "premise", "not_entailment", "not_entailment"),
    nli("snli", "premise", 1, "neutral"),
    nli("snli", "premise", -1, "<unk>"),
    summary("aeslc", "email_body", "subject_line"),
    summary("billsum", "text", "summary"),
    summary("cnn_dailymail", "article", "highlights"),
    summary("gigaword", "document", "summary"),
    summary("multi_news", "document", "summary"),
    summary("newsroom", "text", "summary"),
    summary("samsum", "dialogue", "summary"),
    questions("squad", "SQuAD"),
    questions("hotpot_qa", "HotpotQA"),
    questions("natural_questions", "NaturalQuestions"),
    questions("news_qa", "NewsQA"),
    questions("search_qa", "SearchQA"),
    questions("trivia_qa", "TriviaQA"),
    glue("mnli_train", *MNLI, "neutral", "train.tsv"),
    glue("mnli_validation_matched", *MNLI, "neutral", "dev_matched.tsv"),
    glue("mnli_validation_mismatched", *MNLI, "neutral", "dev_mismatched.tsv"),
    glue("cola", "g\t1\t\tIt is.", "g\t0\t*\tIt are.", "cola sentence: It are.", "unacceptable"),
    glue("sst2", "sentence\tlabel", "fine\t1", "sst2 sentence: fine", "positive"),
    glue("rte", PAIR, "a\tb\tentailment", "rte sentence1: a sentence2: b", "entailment"),
    glue("wnli", PAIR, "a\tb\t1", "wnli sentence1: a sentence2: b", "entailment"),
    glue(
        "stsb",
        "sentence1\tsentence2\tscore",
        "a\tb\t3.35",
        "stsb sentence1: a sentence2: b",
        "3.4",
    ),
    glue(
        "mrpc",
        "Quality\t#1 String\t#2 String",
        "1\ta\tb",
        "mrpc sentence1: a sentence2: b",
        "equivalent",
    ),
    glue(
        "qnli",
        "question\tsentence\tlabel",
        "a\tb\tentailment",
        "qnli question: a sentence: b",
        "entailment",
    ),
    glue(
        "qqp",
        "question1\tquestion2\tis_duplicate",
        "a\tb\t0",
        "qqp question1: a question2: b",
        "not_duplicate",
    ),
]


def test_every_task_has_a_format_to_test():
    assert {name for name, *_ in FORMATS} == {re.sub(r"_v\d+$", "", name) for name in SOURCES}


@pytest.mark.parametrize(("name", "file", "rows", "inputs", "target"), FORMATS)
def test_text_format_of_an_example(tmp_path, vocabulary, name, file, rows, inputs, target):
    (task_name,) = (n for n in SOURCES if re.fullmatch(rf"{name}_v\d+", n))
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)
    config = pipeline.DatasetConfig(
        source=sources.TaskSource(name=task_name, data_dir=str(tmp_path)),
        task_feature_lengths={"inputs": 64, "targets": 32},
        split={"test": "test", "trai": "train"}.get(file[:4], "validation"),
        batch_size=1,
    )
    (task,) = pipeline.evaluation_tasks(config, vocabulary)
    *_, example = task.examples
    assert (task.text(example, "inputs"), task.text(example, "targets")) == (inputs, target)

"""SuperGLUE's files give the examples that TFDS makes of them: its own generator is the judge."""

import json
import types

import pytest
import tensorflow_datasets as tfds
from etils import epath

from prompt_tuning.data.files import super_glue_files

TEXT = "The city councilmen refused the  demonstrators a permit because they feared it ."


def wsc(first, second, text=TEXT, index=0, **others):
    """One example; `first` is the span that the pronoun may stand for."""
    target = {"span1_text": first, "span1_index": index, "span2_text": second, "span2_index": 9}
    return {"text": text, "target": target, "idx": 0, "label": True} | others


ROWS = {
    "boolq": [
        {"question": "is it", "passage": 'It is "so"\u2028.', "idx": 0, "label": True},
        {"question": "is it", "passage": "No.", "idx": 1, "label": False},
    ],
    "cb": [
        {"premise": "p", "hypothesis": "h", "label": "neutral", "idx": 0},
        {"premise": "p", "hypothesis": "h", "label": "contradiction", "idx": 1},
    ],
    "copa": [
        {"premise": "p", "choice1": "a", "choice2": "b", "question": "effect", "label": i, "idx": i}
        for i in (0, 1)
    ],
    "rte": [{"premise": "p", "hypothesis": "h", "label": "not_entailment", "idx": 0}],
    "wic": [
        {
            "word": "class",
            "sentence1": "One class.",
            "sentence2": "Real class.",
            "idx": 0,
            "label": False,
            "start1": 4,
            "start2": 5,
            "end1": 9,
            "end2": 10,
            "version": 1.1,
        }
    ],
    "axb": [{"sentence1": "a", "sentence2": "b", "idx": 3, "label": "entailment", "logic": ""}],
    "axg": [{"premise": "a", "hypothesis": "b", "idx": 3, "label": "entailment", "pair_id": 1}],
    "multirc": [
        {
            "idx": 0,
            "passage": {
                "text": "<b>Sent 1: </b>A.<br>",
                "questions": [
                    {
                        "question": "Who?",
                        "idx": 5,
                        "answers": [
                            {"text": "a", "idx": 8, "label": 1},
                            {"text": "b", "idx": 9, "label": 0},
                        ],
                    },
                    {"question": "Why?", "idx": 6, "answers": [{"text": "c", "idx": 10}]},
                ],
            },
        }
    ],
    "record": [
        {
            "idx": 4,
            "passage": {
                "text": "Zo\u00eb met Bob .\n@highlight\nBob left",
                "entities": [
                    {"start": 8, "end": 10},
                    {"start": 0, "end": 2},
                    {"start": 25, "end": 27},
                ],
            },
            "qas": [
                {
                    "query": "@placeholder left",
                    "idx": 7,
                    "answers": [
                        {"start": 8, "end": 10, "text": "Zo\u00eb"},
                        {"start": 25, "end": 27, "text": "Bob"},
                        {"start": 8, "end": 10, "text": "Bob"},
                    ],
                },
                {"query": "@placeholder met", "idx": 8},
            ],
        }
    ],
    # Spans that are in the text, and such that TFDS mends.
    "wsc.fixed": [
        wsc("The city councilmen", "they"),
        wsc("the city councilmen", "they", idx=1, label=False),
        wsc("The city councilmen", "They", idx=2),
        wsc("councilmen refused.", "they", index=2, idx=3),
        wsc("city\ncouncilmen", "they", index=1, idx=4),
        wsc("Kamenev and Zinoviev", "they", idx=5),
        wsc("theyscold", "they", text="Theyscold it , a b c d e f they", idx=6),
        wsc("Theyscold", "theyscold", text="a theyscold b", idx=7),
    ],
}
SUPER_GLUE = tfds.text.super_glue.SuperGlue


def of_tfds(name, file, split):
    """What TFDS makes of a file, labels as numbers."""
    builder = types.SimpleNamespace(builder_config=SUPER_GLUE.builder_configs[name])
    classes = builder.builder_config.label_classes or ()
    for _, example in SUPER_GLUE._generate_examples(builder, file, split):
        if (label := example.get("label", -1)) in classes:
            example["label"] = list(classes).index(label)
        elif isinstance(label, str):
            example["label"] = int(label)
        yield example


def dtypes(feature):
    """Of TFDS's features, in our terms."""
    if isinstance(feature, tfds.features.FeaturesDict):
        return {name: dtypes(each) for name, each in feature.items()}
    if isinstance(feature, tfds.features.Sequence):
        return [dtypes(feature.feature)]
    return feature.tf_dtype.name


@pytest.mark.parametrize("name", super_glue_files.DATA_SETS)
def test_features_and_classes_are_those_of_tfds(tmp_path, name):
    of_tfds = SUPER_GLUE(config=name, data_dir=str(tmp_path)).info.features
    data_set = super_glue_files.DATA_SETS[name]
    assert data_set.features == dtypes(of_tfds)
    assert list(data_set.classes) == (of_tfds["label"].names if "label" in of_tfds else [])


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path)


def write(folder, name, split, rows):
    """Without a line break at the end, as SuperGLUE's files."""
    file = folder / super_glue_files.DATA_SETS[name].files[split]
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return file


@pytest.mark.parametrize("name", ROWS)
def test_files_as_tfds_reads_them(folder, name):
    split = "test" if name.startswith("ax") else "train"
    file = write(folder, name, split, ROWS[name])
    mine = list(super_glue_files.read(name, folder, split))
    assert mine == list(of_tfds(name, file, split)) and mine
    features = super_glue_files.DATA_SETS[name].features
    assert all(example.keys() == features.keys() for example in mine)


@pytest.mark.parametrize("name", ["cb", "wsc.fixed", "wic"])
def test_test_files_have_no_labels(folder, name):
    rows = [{key: value for key, value in row.items() if key != "label"} for row in ROWS[name]]
    own = folder / super_glue_files.DATA_SETS[name].folder  # as SuperGLUE unpacks
    file = write(own, name, "test", rows)
    mine = list(super_glue_files.read(name, folder, "test"))
    assert mine == list(of_tfds(name, file, "test"))
    assert {example["label"] for example in mine} == {-1}


@pytest.mark.parametrize(
    ("name", "rows", "part"),
    [
        ("boolq", ROWS["cb"], r"line 1: no question, passage in \['premise', 'hypothesis'"),
        ("rte", ROWS["cb"], "line 1: label 'neutral'; expected one of entailment, not_entailment"),
        ("multirc", ROWS["record"], "line 1: no questions in"),
        ("record", ROWS["multirc"], "line 1: no qas in"),
        ("wsc.fixed", ROWS["cb"], "line 1: no text, target in"),
        ("wsc.fixed", [{"text": "", "target": {}, "idx": 0}], "line 1: no span1_text"),
        ("copa", [{**ROWS["copa"][0], "label": 2}], "line 1: label '2'; expected one of choice1"),
    ],
)
def test_the_file_of_another_task(folder, name, rows, part):
    write(folder, name, "train", rows)
    with pytest.raises(ValueError, match=rf"TASK_DATA_DIR .*train\.jsonl, {part}"):
        list(super_glue_files.read(name, folder, "train"))


def test_a_folder_without_the_file(folder):
    with pytest.raises(FileNotFoundError, match=r"none of val\.jsonl, nor a folder WiC with one"):
        list(super_glue_files.read("wic", folder, "validation"))


def test_definite_pronouns(folder):
    text = "The bee landed on the flower because it had pollen.\nit\nThe bee,the flower\nthe flower\n\n"
    (folder / "train.c.txt").write_text(text + "He ran .\nHe\nTom, Bob \nTom\n")
    mine = list(super_glue_files.read_definite_pronouns(folder, "train"))
    builder = tfds.text.DefinitePronounResolution
    theirs = [e for _, e in builder._generate_examples(None, folder / "train.c.txt")]
    assert mine == theirs and len(mine) == 2
    assert mine[0].keys() == super_glue_files.DEFINITE_PRONOUN_FEATURES.keys()
    (folder / "test.c.txt").write_text("a\nb\nc\nd\n")
    with pytest.raises(ValueError, match=r"test\.c\.txt, line 3: 'c'; expected two names"):
        list(super_glue_files.read_definite_pronouns(folder, "test"))

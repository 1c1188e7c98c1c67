"""GLUE's files give the examples that TFDS makes of them: its own generator is the judge."""

import json
import types

import pytest
import tensorflow_datasets as tfds
from etils import epath

from prompt_tuning.data.files import glue_files

# What trips a reader: quotes, a carriage return, a short row, an empty label, a label by number.
PAIRS = {
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    '1\t2\t3\tWhat is "it"?\t"What\t1\n'
    "2\t4\t5\tshort\n"
    "3\t6\t7\tA\t\t0\n",
    "stsb": "index\tgenre\tsentence1\tsentence2\tscore\n0\tx\ta\tb\t3.200\n1\tx\tc\td\t5.0",
    "qnli": "index\tquestion\tsentence\tlabel\n0\tq\ts\tnot_entailment\n1\tq\ts\tentailment\n",
    "rte": "index\tsentence1\tsentence2\tlabel\n0\ta\rb\tc\tentailment\n1\ta\tb\tentailment\n",
    "wnli": "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n1\tc\td\t0\n",
    "mnli": "index\tsentence1\tsentence2\tgold_label\n0\ta\tb\tneutral\n1\ta\tb\tcontradiction\n",
    "sst2": "sentence\tlabel\nit 's \u2028 fine \t1\nbad \t0\nno label\t\n",
    "cola": "gj04\t1\t\tIt works.\ngj04\t0\t*\tIt work.\n",
}
TEST = {
    "qqp": "id\tquestion1\tquestion2\n0\ta\tb\n",
    "stsb": "index\tsentence1\tsentence2\n0\ta\tb\n",
    "cola": "index\tsentence\n0\tIt works.\n",
    "sst2": "index\tsentence\n0\tfine\n",
}
GLUE = tfds.text.glue.Glue


def of_tfds(name, file, split):
    """What TFDS makes of a file, labels as numbers."""
    builder = types.SimpleNamespace(builder_config=GLUE.builder_configs[name])
    classes = list(builder.builder_config.label_classes or ())
    for _, example in GLUE._generate_examples(builder, str(file), split):
        label = example["label"]
        yield {**example, "label": classes.index(label) if label in classes else label}


def check_same(name, folder, file, split, tfds_split):
    mine = list(glue_files.read(name, folder, split))
    theirs = [
        {**example, "label": float(example["label"]) if name == "stsb" else example["label"]}
        for example in of_tfds(name, file, tfds_split)
    ]
    assert mine == [pytest.approx(example) for example in theirs] and mine
    assert [example.keys() for example in mine] == [
        glue_files.DATA_SETS[name].features.keys() for _ in mine
    ]


@pytest.mark.parametrize("name", glue_files.DATA_SETS)
def test_classes_and_dtypes_are_those_of_tfds(name):
    config, data_set = GLUE.builder_configs[name], glue_files.DATA_SETS[name]
    assert data_set.classes == tuple(config.label_classes or ())
    texts = dict.fromkeys(config.text_features, "string")
    label = "int64" if config.label_classes else "float32"
    assert data_set.features == {**texts, "label": label, "idx": "int32"}


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path)


@pytest.mark.parametrize("name", PAIRS)
def test_training_files(folder, name):
    (folder / "train.tsv").write_bytes(PAIRS[name].encode())
    check_same(name, folder, folder / "train.tsv", "train", "train")


@pytest.mark.parametrize("name", TEST)
def test_test_files_have_no_labels(folder, name):
    (folder / "test.tsv").write_text(TEST[name])
    check_same(name, folder, folder / "test.tsv", "test", "test")
    assert [example["label"] for example in glue_files.read(name, folder, "test")] == [-1]


@pytest.mark.parametrize(
    ("name", "split", "file"),
    [
        ("mnli", "validation_matched", "dev_matched.tsv"),
        ("mnli", "validation_mismatched", "dev_mismatched.tsv"),
        ("mnli_matched", "validation", "dev_matched.tsv"),
        ("mnli_mismatched", "test", "test_mismatched.tsv"),
        ("ax", "test", "diagnostic.tsv"),
        ("sst2", "validation", "dev.tsv"),
    ],
)
def test_a_file_for_each_split(folder, name, split, file):
    own = folder / glue_files.DATA_SETS[name].folder  # as GLUE unpacks
    own.mkdir()
    (own / file).write_text(PAIRS["sst2" if name == "sst2" else "mnli"])
    check_same(name, folder, own / file, split, "dev")


HEADER = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
ROWS = ('1\t11\t12\tHe said " no .\tNo , he said .\n', "0\t21\t22\ta\tb\n", "1\t31\t32\tc\td\n")


def test_mrpc_as_glue_prepares_it(folder):
    (folder / "dev.tsv").write_text(HEADER + ROWS[0] + ROWS[1], encoding="utf-8")
    assert list(glue_files.read("mrpc", folder, "validation")) == [
        {"sentence1": 'He said " no .', "sentence2": "No , he said .", "label": 1, "idx": 0},
        {"sentence1": "a", "sentence2": "b", "label": 0, "idx": 1},
    ]


def test_mrpc_as_its_authors_gave_it(folder):
    (folder / "msr_paraphrase_train.txt").write_text(HEADER + "".join(ROWS), encoding="utf-8")
    (folder / "msr_paraphrase_test.txt").write_text(HEADER + ROWS[1], encoding="utf-8")
    (folder / "dev_ids.tsv").write_text("21\t22\n")
    paths = {
        "train": folder / "msr_paraphrase_train.txt",
        "test": folder / "msr_paraphrase_test.txt",
        "dev_ids": folder / "dev_ids.tsv",
    }
    builder = types.SimpleNamespace(builder_config=GLUE.builder_configs["mrpc"])
    for split, of_theirs in (("train", "train"), ("validation", "dev"), ("test", "test")):
        theirs = list(GLUE._generate_example_mrpc_files(builder, paths, of_theirs))
        for example in theirs:
            example["label"] = int(example["label"])
        assert list(glue_files.read("mrpc", folder, split)) == theirs and theirs


def test_pairs_in_json(folder):
    pairs = {
        "0": {"text_a": 'a "', "text_b": "b", "label": "1"},
        "5": {"text_a": "c", "text_b": ""},
    }
    pairs["5"]["label"] = 0
    (folder / "train.json").write_text(json.dumps(pairs))
    assert list(glue_files.read("qqp", folder, "train")) == [
        {"question1": 'a "', "question2": "b", "label": 1, "idx": 0},
        {"question1": "c", "question2": "", "label": 0, "idx": 1},
    ]


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        (
            "rte",
            PAIRS["sst2"],
            r"train\.tsv: no sentence1, sentence2 in \['sentence', 'label'\]",
        ),
        ("cola", PAIRS["sst2"], r"train\.tsv, line 1: fewer than 4 columns"),
        ("rte", PAIRS["rte"] + "2\ta\tb\tneutral\n", r"row 3: label 'neutral'"),
        ("stsb", PAIRS["stsb"].replace("5.0", "high"), r"row 1: label 'high'; expected a number"),
        ("sst2", "", r"train\.tsv: no sentence in \[\]"),
    ],
)
def test_the_file_of_another_task(folder, name, text, part):
    (folder / "train.tsv").write_text(text)
    with pytest.raises(ValueError, match=f"TASK_DATA_DIR .*{part}"):
        list(glue_files.read(name, folder, "train"))


@pytest.mark.parametrize(
    ("text", "part"),
    [("{", "not JSON"), ('{"0": {"text_a": "a", "label": "1"}}', r"'0': no text_b in")],
)
def test_wrong_json(folder, text, part):
    (folder / "train.json").write_text(text)
    with pytest.raises(ValueError, match=rf"TASK_DATA_DIR .*train\.json.*{part}"):
        list(glue_files.read("qqp", folder, "train"))


def test_a_folder_without_the_file(folder):
    with pytest.raises(FileNotFoundError, match=r"none of dev\.tsv, nor a folder SST-2 with one"):
        list(glue_files.read("sst2", folder, "validation"))

"""The model and the data that ship with the package."""

import copy
import pathlib

import gin
import pytest

from prompt_tuning import assets
from prompt_tuning.checkpoints import base_model
from prompt_tuning.cli import main as cli
from prompt_tuning.data import vocabularies
from prompt_tuning.data.files import examples

REVIEWS = ("train", "validation", "restaurants", "gadgets")


def read(name):
    path = assets.path(f"reviews/{name}.tsv")
    return examples.read_examples(
        path, setting="TRAIN_FILE", input_template="{sentence}", target_column="label"
    )


def test_the_model_matches_its_gin_file():
    cli.read(["describe", "--gin_file=models/t5_mini.gin", "--gin_file=runs/describe.gin"])
    model, vocabulary, file = (
        copy.deepcopy(gin.query_parameter(f"%{name}"))
        for name in ("MODEL", "VOCABULARY", "VOCABULARY_FILE")
    )
    base_model.check_config(assets.path("t5_mini"), model.config)
    vocabulary.check_fits(model.config.vocab_size)
    assert file == assets.path("t5_mini")  # as in pt.load_model("t5_mini")
    for text in ("a lovely film", "a film </s> <extra_id_0> <pad> <unk>", "C++  \u00e9\u4e2d"):
        assert vocabulary.encode(text) == vocabularies.load(file).encode(text)


@pytest.mark.parametrize("name", REVIEWS)
def test_reviews_are_balanced(name):
    targets = [example["targets"] for example in read(name)]
    assert set(targets) == {"positive", "negative"}
    assert 0.4 < targets.count("positive") / len(targets) < 0.6


def test_no_review_is_in_two_files():
    texts = [{example["inputs"] for example in read(name)} for name in REVIEWS]
    assert len(set().union(*texts)) == sum(map(len, texts))


@pytest.mark.parametrize("name", ["t5_mini", "reviews"])
def test_assets_have_a_readme(name):
    assert pathlib.Path(assets.path(f"{name}/README.md")).read_text().startswith("# ")

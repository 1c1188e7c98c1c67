"""Extractive question answering: SQuAD, and MRQA 2019 in and out of domain."""

import functools

from prompt_tuning.data.files import originals, question_files
from prompt_tuning.data.tasks import registry, variants
from prompt_tuning.data.text import answers, questions

# Name in tasks -> name in MRQA, which starts the file name.
IN_DOMAIN = {
    "news_qa": "NewsQA",
    "trivia_qa": "TriviaQA",
    "search_qa": "SearchQA",
    "hotpot_qa": "HotpotQA",
    "natural_questions": "NaturalQuestions",
}
OUT_OF_DOMAIN = {
    "bio_asq": "BioASQ",
    "drop": "DROP",
    "duo_rc": "DuoRC",
    "race": "RACE",
    "relation_extraction": "RelationExtraction",
    "textbook_qa": "TextbookQA",
}
SQUAD = "squad_v010_allanswers_examples"
_TEXTS = {"question": "string", "context": "string"}


def mrqa_source(name: str, file_name: str, splits) -> originals.Source:
    """Returns an MRQA data set, from TFDS or from its file."""
    return originals.Source(
        f"mrqa/{name}:1.0.0",
        read=functools.partial(question_files.read_mrqa, name=file_name),
        features={"qid": "string", **_TEXTS, "answers": ["string"]},
        splits=splits,
    )


def _register(name: str, source: originals.Source, text_format, samples_name: str) -> None:
    registry.add_task(
        name,
        source,
        [text_format],
        postprocess_fn=questions.all_answers,
        metric_fns=[answers.squad],
        samples_name=samples_name,
    )


_register(
    SQUAD,
    originals.Source(
        "squad/v1.1:3.0.0",
        read=question_files.read_squad,
        features={"id": "string", **_TEXTS, "answers": {"text": ["string"]}},
        splits=("train", "validation"),
    ),
    questions.squad,
    "squad",
)
for _name, _file_name in IN_DOMAIN.items():
    _source = mrqa_source(_name, _file_name, ("train", "validation"))
    _register(f"mrqa_{_name}_v100_examples", _source, questions.mrqa, _name)
for _name, _file_name in OUT_OF_DOMAIN.items():
    # TFDS names these splits "test".
    _source = mrqa_source(_name, _file_name, {"validation": "test"})
    _register(f"mrqa_{_name}_v100_examples", _source, questions.mrqa, _name)
    # Trains on SQuAD and is evaluated on both.
    variants.add_mixture(f"squad_to_{_name}_examples", [SQUAD, f"mrqa_{_name}_v100_examples"], 1.0)
variants.add_mixture(
    "squad_to_mrqa_examples",
    [SQUAD, *(f"mrqa_{name}_v100_examples" for name in OUT_OF_DOMAIN)],
    1.0,
)

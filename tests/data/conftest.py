"""A small vocabulary, trained once for all tests of data."""

import pytest
import sentencepiece

from prompt_tuning.data import vocabularies

SENTENCES = [
    f"{who} {verb} the {how} {what} in the {place} ."
    for who in ("she", "he", "nobody", "everyone")
    for verb in ("liked", "hated", "saw", "forgot")
    for how in ("good", "bad", "long", "dull")
    for what in ("film", "story", "song")
    for place in ("park", "town")
]


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory) -> vocabularies.SentencePiece:
    """About 50 pieces, letters and a few words, and 100 sentinels."""
    folder = tmp_path_factory.mktemp("vocabulary")
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([*SENTENCES, "abcdefghijklmnopqrstuvwxyz0123456789:,'\""]),
        model_prefix=str(folder / "tiny"),
        vocab_size=100,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return vocabularies.SentencePiece(str(folder / "tiny.model"), extra_ids=100)

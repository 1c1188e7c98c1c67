"""Creates the pre-training data of t5_mini: plain text, text-to-text examples, a vocabulary.

T5 1.0 was pre-trained on a mixture of span corruption and text-to-text tasks. This script creates
such tasks from text (novels, an encyclopedia) and from word lists. Each question names its possible
answers, and sentences occur with several questions, so that the question decides the answer.
Sentences about reviews are removed, and no question asks for the tone of a sentence in the domains
of the embedded reviews.

  python scripts/make_t5_mini_data.py --novels books.jsonl --encyclopedia wiki.jsonl \
      --lexicon scripts/t5_mini_lexicon --output data/

It reads JSON lines {"title", "text"}; pleasant.txt and unpleasant.txt with one word or phrase per
line; synonyms.tsv and opposites.tsv with two words per line. It writes text.jsonl {"text"},
text_to_text.jsonl {"task", "inputs", "targets"} and vocabulary.model.
"""

import argparse
import collections
import dataclasses
import io
import json
import pathlib
import random
import re
from collections.abc import Iterable, Iterator, Sequence

import sentencepiece

TONE_NAMES = (
    ("good", "bad"),
    ("pleasant", "unpleasant"),
    ("happy", "sad"),
    ("bright", "dark"),
    ("praise", "blame"),
)
# For words and phrases only: sentences are never called positive or negative.
PHRASE_TONE_NAMES = (("positive", "negative"),) * 3 + TONE_NAMES
UNUSED_TEXT = re.compile(r"\breview|\bcritic", re.I)
UNUSED_DOMAIN = re.compile(
    r"\b(films?|movies?|cinemas?|pictures?|restaurants?|caf[eé]s?|diners?|gadgets?|phones?|"
    r"screens?|actors?|actress(es)?|camera|laptops?|headphones)\b",
    re.I,
)
NEGATION = re.compile(
    r"not|n't|no|never|without|hardly|scarcely|barely|neither|nor|cannot|nothing|none|lack(s|ed)?"
)
KIND = re.compile(
    r"\b(?:is|was|are|were) an? .{0,60}?\b(footballer|politician|singer|writer|painter|village|town|"
    r"city|river|mountain|lake|island|album|song|band|novel|species|genus|moth|beetle|plant|company|"
    r"school|university|church|bridge|ship|railway|station|stadium|team|tournament|battle|war|"
    r"language|disease)\b"
)
LISTED_REPEATS = 100
MAX_TERM_WORDS = 6
QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": " - ", "–": "-", "_": ""})


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A sentence of a document."""

    text: str
    title: str
    is_novel: bool
    is_first: bool


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """Tones (+1, -1) of words and phrases, and pairs of related words."""

    tones: dict[str, int]
    synonyms: list[tuple[str, str]]
    opposites: list[tuple[str, str]]

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Lexicon":
        """Reads the four files."""

        def lines(name):
            return (folder / name).read_text("utf-8").splitlines()

        def pairs(name):
            return [tuple(line.split("\t")) for line in lines(name)]

        tones = dict.fromkeys(lines("unpleasant.txt"), -1) | dict.fromkeys(lines("pleasant.txt"), 1)
        return cls(tones, pairs("synonyms.tsv"), pairs("opposites.tsv"))


def words_of(text: str) -> list[str]:
    """Splits a text into lower-case words; n't is a separate word."""
    return re.findall(r"n't|[a-z]+(?=n't)|[a-z]+", text.lower())


def tone_hits(words: list[str], lexicon: Lexicon) -> list[int]:
    """Returns the tone of each lexicon term; a negation in the three words before it inverts it."""
    hits, end = [], 0
    for start in range(len(words)):
        for size in range(MAX_TERM_WORDS, 0, -1):
            tone = lexicon.tones.get(" ".join(words[start : start + size]))
            if tone and start + size <= len(words) and start >= end:
                before = words[max(end, start - 3) : start]
                negated = any(NEGATION.fullmatch(word) for word in before)
                hits.append(-tone if negated else tone)
                end = start + size
    return hits


def tone_of(text: str, lexicon: Lexicon) -> int:
    """Returns +1 or -1 if all lexicon terms of the text agree, else 0."""
    hits = set(tone_hits(words_of(text), lexicon))
    return hits.pop() if len(hits) == 1 else 0


def read_documents(path: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """Yields (title, paragraphs) of each document."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            document = json.loads(line)
            lines = document["text"].translate(QUOTES).split("\n")
            yield document["title"], [" ".join(x.split()) for x in lines if x.strip()]


def split_sentences(paragraph: str) -> list[str]:
    """Splits a paragraph into sentences, without those about reviews."""
    sentences = re.split(
        r"(?<=[a-z][.!?])\s+(?=[A-Z\"'])|(?<=[a-z][.!?][\"'])\s+(?=[A-Z\"'])", paragraph
    )
    return [sentence for sentence in sentences if not UNUSED_TEXT.search(sentence)]


def chunks(sentences: list[str], size: int = 60) -> Iterator[str]:
    """Joins consecutive sentences to texts of at least `size` words."""
    chunk: list[str] = []
    for sentence in sentences:
        chunk += sentence.split()
        if len(chunk) >= size:
            yield " ".join(chunk)
            chunk = []
    if len(chunk) >= 5:
        yield " ".join(chunk)


def ask(rng: random.Random, options: Sequence[str], about: str) -> str:
    """Formats a question that names its answers in random order."""
    return f"{' or '.join(rng.sample(options, k=len(options)))}? {about}"


def ask_tone(rng: random.Random, tone: int, about: str, names=TONE_NAMES) -> tuple[str, str]:
    """Returns (inputs, targets) of a question for the tone."""
    good, bad = rng.choice(names)
    return ask(rng, (good, bad), about), good if tone > 0 else bad


def balanced(rng: random.Random, items: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Samples equally many items of tone +1 and -1."""
    sides = [[item for item in items if item[0] == tone] for tone in (1, -1)]
    size = min(map(len, sides))
    return [item for side in sides for item in rng.sample(side, size)]


def clauses(text: str) -> Iterator[str]:
    """Yields the sentence if it is short, and its parts between commas and conjunctions."""
    if len(text.split()) <= 30:
        yield text
    for part in re.split(r"[,;:]| - | and | but | because | which | when |[.!?\"]", text):
        if 3 <= len(part.split()) <= 16:
            yield part.strip()


def toned_texts(sentences: list[Sentence], lexicon: Lexicon) -> list[tuple[int, str]]:
    """Returns unique (tone, text) of sentences and clauses with a clear tone."""
    tones = {}
    for sentence in sentences:
        if not UNUSED_DOMAIN.search(sentence.text):
            for text in clauses(sentence.text):
                if tone := tone_of(text, lexicon):
                    tones[text] = tone
    return [(tone, text) for text, tone in tones.items()]


def tone_examples(rng, sentences, lexicon, size):
    """Yields questions for the tone of single, joined and contrasted sentences and clauses."""
    texts = balanced(rng, toned_texts(sentences, lexicon))
    short = {tone: [x for t, x in texts if t == tone and len(x.split()) <= 9] for tone in (1, -1)}
    for tone, text in rng.sample(texts, min(size, len(texts))):
        yield ask_tone(rng, tone, text)
    for _ in range(size // 4):
        tone = rng.choice((1, -1))
        same, other = rng.sample(short[tone], 2), rng.choice(short[-tone])
        yield ask_tone(rng, tone, f"{same[0]}, and {same[1]}.")
        # The clause after "but" decides the tone.
        contrast = rng.choice(("{1}, but {0}.", "although {1}, {0}.", "despite {1}, {0}."))
        yield ask_tone(rng, tone, contrast.format(same[0], other))


def phrase_examples(rng, sentences, lexicon, size):
    """Yields questions for the tone of terms, alone and with a few words of context."""
    terms = balanced(rng, [(tone, term) for term, tone in lexicon.tones.items()])
    for _ in range(size // 2):
        tone, term = rng.choice(terms)
        yield ask_tone(rng, tone, term, PHRASE_TONE_NAMES)
    windows = []
    for sentence in rng.sample(sentences, min(len(sentences), 2 * size)):
        if UNUSED_DOMAIN.search(sentence.text):
            continue
        words = words_of(sentence.text)
        for i, word in enumerate(words):
            if word in lexicon.tones:
                window = " ".join(words[max(0, i - rng.randint(0, 3)) : i + rng.randint(1, 3)])
                windows.append((tone_of(window, lexicon), window))
    windows = balanced(rng, windows)
    for tone, window in rng.sample(windows, min(len(windows), size // 2)):
        yield ask_tone(rng, tone, window, PHRASE_TONE_NAMES)


SUBJECTS = (
    "the garden|the weather|the journey|her voice|his letter|the house|our neighbour|the horse|"
    "the old man|the village|the speech|this road|that winter|my room|the river|the teacher|"
    "the work|our walk|the child|the whole day|everything|the plan|it|this|what he said"
)
# Patterns that keep, and that invert, the tone of their adjectives.
AFFIRMATIONS = (
    "{s} was {w}|{s} is so {w}|{s} could hardly be more {w}|{s} is as {w} as ever|"
    "not only {w}, {s} is also {v}|{s} is both {w} and {v}|I found {s} {w}|how {w} {s} is!|"
    "nothing is as {w} as {s}|never has {s} been so {w}"
)
NEGATIONS = (
    "{s} was not {w}|{s} is hardly {w}|{s} is anything but {w}|{s} is far from {w}|"
    "there is nothing {w} about {s}|{s} is neither {w} nor {v}|{s} tries to be {w} and fails|"
    "I wish {s} were {w}|{s} was supposed to be {w}|{s} is never {w}|"
    "nobody would call {s} {w}|{s} used to be {w}"
)
PATTERNS = [(1, x) for x in AFFIRMATIONS.split("|")] + [(-1, x) for x in NEGATIONS.split("|")]


def adjectives(sentences: list[Sentence], lexicon: Lexicon) -> dict[int, list[str]]:
    """Returns lexicon words that follow very, so, too, quite, rather or as in the corpus."""
    counts = collections.Counter()
    for sentence in sentences:
        counts.update(re.findall(r"\b(?:very|so|too|quite|rather|as) ([a-z]+)", sentence.text))
    words = [w for w in lexicon.tones if counts[w] >= 3 and not w.endswith("ly")]
    return {tone: [w for w in words if lexicon.tones[w] == tone] for tone in (1, -1)}


def pattern_examples(rng, sentences, lexicon, size):
    """Yields questions for the tone of generated sentences, half of them negated."""
    words = adjectives(sentences, lexicon)
    subjects = SUBJECTS.split("|")
    for _ in range(size):
        sign, pattern = rng.choice(PATTERNS)
        tone = rng.choice((1, -1))
        w, v = rng.sample(words[tone * sign], 2)
        yield ask_tone(rng, tone, pattern.format(s=rng.choice(subjects), w=w, v=v))


def relation_examples(rng, lexicon, size):
    """Yields questions for synonyms and opposites, and for the relation of a pair."""
    for _ in range(size // 3):
        pairs, name = rng.choice([(lexicon.synonyms, "same"), (lexicon.opposites, "opposite")])
        pair = rng.choice(pairs)
        first, second = rng.sample(pair, 2)
        yield f"{name} meaning? {first}", second
        yield ask(rng, ("same", "opposite"), f"{first}, {second}"), name
        tone = lexicon.tones.get(first)
        if tone and name == "same":
            yield ask_tone(rng, tone, f"{first} and {second}", PHRASE_TONE_NAMES)


def source_examples(rng, sentences, size):
    """Yields questions for the source of a sentence, for direct speech, and for the tense."""
    novels = [s for s in sentences if s.is_novel]
    articles = [s for s in sentences if not s.is_novel]
    for _ in range(size // 3):
        sentence = rng.choice(rng.choice((novels, articles)))
        source = "novel" if sentence.is_novel else "encyclopedia"
        yield ask(rng, ("novel", "encyclopedia"), sentence.text), source
        spoken = rng.choice(novels)
        kind = "speech" if '"' in spoken.text else "story"
        yield ask(rng, ("speech", "story"), spoken.text.replace('"', "")), kind
        if tense := tense_of(sentence.text):
            yield ask(rng, ("past", "present"), sentence.text), tense


def tense_of(text: str) -> str | None:
    """Returns "past" or "present" by the forms of be, have and do; None if unclear."""
    words = set(words_of(text))
    past, present = words & {"was", "were", "had", "did"}, words & {"is", "are", "has", "does"}
    return None if bool(past) == bool(present) else "past" if past else "present"


def article_examples(rng, sentences, size):
    """Yields questions for the title and the kind of an article, given its first sentence."""
    firsts = [s for s in sentences if s.is_first and not s.is_novel]
    kinds = [(m[1], s.text) for s in firsts if (m := KIND.search(s.text))]
    for _ in range(size // 2):
        first = rng.choice(firsts)
        yield f"title? {first.text}", first.title
        (answer, text), (other, _) = rng.sample(kinds, 2)
        if other != answer:
            yield ask(rng, (answer, other), text), answer


def order_examples(rng, sentences, size):
    """Yields questions whether two halves belong together, and for the order of words."""
    for first, second in (rng.sample(sentences, 2) for _ in range(size // 2)):
        words, others = first.text.split(), second.text.split()
        if len(words) < 8 or len(others) < 8:
            continue
        answer = rng.choice(("together", "apart"))
        end = words[len(words) // 2 :] if answer == "together" else others[len(others) // 2 :]
        halves = f"{' '.join(words[: len(words) // 2])} / {' '.join(end)}"
        yield ask(rng, ("together", "apart"), halves), answer
        start = rng.randrange(len(words) - 5)
        span = words[start : start + 5]
        yield f"order? {' '.join(rng.sample(span, 5))}", " ".join(span)


def read_sentences(path: pathlib.Path, is_novel: bool) -> tuple[list[str], list[Sentence]]:
    """Returns texts for span corruption, and sentences of 5 to 40 words."""
    texts, sentences = [], []
    for title, paragraphs in read_documents(path):
        split = [s for paragraph in paragraphs for s in split_sentences(paragraph)]
        texts += chunks(split)
        for i, sentence in enumerate(split):
            if 5 <= len(sentence.split()) <= 40:
                sentences.append(Sentence(sentence, title, is_novel, i == 0))
    return texts, sentences


def train_vocabulary(rng, texts: list[str], lexicon: Lexicon, size: int, path: pathlib.Path):
    """Trains a unigram vocabulary; repeated words of the lists mostly become one token."""
    related = [word for pair in lexicon.synonyms + lexicon.opposites for word in pair]
    names = [name for pair in PHRASE_TONE_NAMES for name in pair]
    listed = [*lexicon.tones, *related, *names] * LISTED_REPEATS
    rng.shuffle(listed)
    listed = [" ".join(listed[i : i + 10]) for i in range(0, len(listed), 10)]
    # With model_prefix the model would contain the name of the folder.
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(rng.sample(texts, min(len(texts), 60_000)) + listed),
        model_writer=model,
        vocab_size=size,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc_cf",
        character_coverage=0.9995,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=2,
        minloglevel=1,
    )
    path.write_bytes(model.getvalue())


def write_lines(path: pathlib.Path, rows: Iterable[dict]) -> None:
    """Writes JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    """Reads the corpus and writes the data."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    for name in ("--novels", "--encyclopedia", "--lexicon", "--output"):
        parser.add_argument(name, type=pathlib.Path, required=True)
    parser.add_argument("--examples", type=int, default=500_000)
    parser.add_argument("--vocabulary_size", type=int, default=8092)
    args = parser.parse_args()
    rng = random.Random(0)
    lexicon = Lexicon.read(args.lexicon)
    texts, sentences = [], []
    for path, is_novel in ((args.novels, True), (args.encyclopedia, False)):
        more_texts, more_sentences = read_sentences(path, is_novel)
        texts, sentences = texts + more_texts, sentences + more_sentences
    size = args.examples // 20
    tasks = {
        "phrase_tone": phrase_examples(rng, sentences, lexicon, 8 * size),
        "tone": tone_examples(rng, sentences, lexicon, 4 * size),
        "pattern_tone": pattern_examples(rng, sentences, lexicon, 2 * size),
        "relation": relation_examples(rng, lexicon, size),
        "source": source_examples(rng, sentences, 2 * size),
        "article": article_examples(rng, sentences, size),
        "order": order_examples(rng, sentences, size),
    }
    examples = [
        {"task": task, "inputs": x, "targets": y} for task, pairs in tasks.items() for x, y in pairs
    ]
    rng.shuffle(examples)
    rng.shuffle(texts)
    args.output.mkdir(parents=True, exist_ok=True)
    write_lines(args.output / "text.jsonl", ({"text": text} for text in texts))
    write_lines(args.output / "text_to_text.jsonl", examples)
    train_vocabulary(rng, texts, lexicon, args.vocabulary_size, args.output / "vocabulary.model")


if __name__ == "__main__":
    main()

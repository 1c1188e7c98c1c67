"""A frozen T5 in memory: loading it, answering and scoring texts with it."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float, Int

from prompt_tuning import annotations, assets
from prompt_tuning import texts as texts_lib
from prompt_tuning.api import arguments
from prompt_tuning.api import prompt as prompt_lib
from prompt_tuning.checkpoints import base_model
from prompt_tuning.data import evaluation_task, vocabularies
from prompt_tuning.data.batches import batching
from prompt_tuning.data.text import labels
from prompt_tuning.data.tokenizers import vocabulary_checks
from prompt_tuning.distributed import partitioning
from prompt_tuning.inference import evaluator, truncation
from prompt_tuning.methods import base
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import decoding
from prompt_tuning.models import model as network
from prompt_tuning.training import state

# Programs, and tables of prompts on the devices, that a model keeps.
KEPT = 32

Decoder = Annotated[
    decoding.Decoder | decoding.LabelRanking, annotations.Example("pt.BeamSearch(num_decodes=4)")
]
# What `load_model` calls macros.
LOADING_NAMES = {
    "the model's gin file": "config",
    "models/hugging_face.gin reads all of these from config.json": "without config, it is read from config.json",
    "the model gin file": "config",
    "INITIAL_CHECKPOINT_PATH": "path",
    "VOCABULARY_FILE": "vocabulary",
    "ACTIVATION_DTYPE": "dtype",
}
# What functions of a model call macros.
PREDICTION_NAMES = {
    **arguments.MODEL_NAMES,
    "PROMPT_FILE": "prompt",
    "PROMPT_LENGTH": "the prompt's length",
    "TOPK": "topk",
}


class Answer(NamedTuple):
    """A text, and by what its decoder ranks it.

    That is log p(text | input); of beams with a length penalty, of a LabelRanking normalized.
    """

    text: str
    score: float


@arguments.checked(LOADING_NAMES)
def load_model(
    path: epath.PathLike,
    *,
    config: config_lib.T5Config | None = None,
    vocabulary: epath.PathLike | vocabularies.Vocabulary | None = None,
    extra_ids: annotations.NonNegativeInt = 0,
    dtype: annotations.Dtype | None = None,
    weights_dtype: annotations.Dtype = "float32",
    num_partitions: annotations.PositiveInt = 1,
) -> "Model":
    """Reads a frozen T5 onto the devices.

    Args:
      path: a Hugging Face folder (config.json, model.safetensors, and spiece.model or
        tokenizer.json), which is enough; a T5X checkpoint, which needs `config` and
        `vocabulary`; or "t5_mini", the model in the package, where there is no folder of this
        name.
      config: sizes of the network, where no config.json says them.
      vocabulary: a sentencepiece model, a folder with tokenizer files, or a vocabulary; default:
        the folder's.
      extra_ids: sentinels to append to a sentencepiece model that is given: 100 for T5's
        spiece.model, 0 where the file has them.
      dtype: of activations; default: "float32" on a CPU, else "bfloat16".
      weights_dtype: in which weights are held; "bfloat16" halves their memory.
      num_partitions: devices that share one copy of the weights; the others share the rows.

    Raises:
      FileNotFoundError: there is no such folder or vocabulary.
      TypeError: an argument of another type than its annotation.
      ValueError: not a T5, or something of it does not fit.
    """
    path = os.fspath(path)
    if path in assets.MODELS and not epath.Path(path).exists():
        path = assets.path(path)
    config = base_model.read_config(path) if config is None else config
    if vocabulary is None:
        vocabulary, extra_ids = base_model.tokenizer_folder(path), 0
    if config is None or vocabulary is None:
        raise ValueError(
            f"{path} has no config.json, so its network and vocabulary are not known; expected "
            "both as arguments. Pass config=pt.T5Config(…) with the model's sizes, and "
            "vocabulary= with the path of its SentencePiece model."
        )
    if isinstance(vocabulary, str | os.PathLike):
        vocabulary = vocabularies.load(vocabulary, extra_ids)
    config = dataclasses.replace(
        config, dtype=dtype or partitioning.activation_dtype(), weights_dtype=weights_dtype
    )
    model = network.EncoderDecoderModel(config)
    return Model(
        state.load_model(model, vocabulary, checkpoint=path, num_partitions=num_partitions)
    )


class Model:
    """A frozen T5 that answers and scores texts, with prompts or without: see `load_model`."""

    def __init__(self, loaded: state.LoadedModel):
        """Takes a model without prompt."""
        self._loaded = loaded
        self._network: Callable[..., network.EncoderDecoderModel]
        self._with_prompts: Callable[..., state.LoadedModel]
        self._answerer: Callable[..., evaluator.Answerer]
        self._network = functools.lru_cache(KEPT)(self._make_network)
        self._with_prompts = functools.lru_cache(KEPT)(self._load_prompts)
        self._answerer = functools.lru_cache(KEPT)(self._make_answerer)

    def __repr__(self) -> str:
        return f"Model({self._loaded.checkpoint!r})"

    @property
    def config(self) -> config_lib.T5Config:
        """Sizes of the network."""
        return self._loaded.model.config

    @property
    def vocabulary(self) -> vocabularies.Vocabulary:
        """Text to ids and back."""
        return self._loaded.vocabulary

    @property
    def loaded(self) -> state.LoadedModel:
        """Network, parameters and mesh, for functions of the package."""
        return self._loaded

    @arguments.checked(PREDICTION_NAMES)
    def generate(
        self,
        texts: Iterable[str],
        prompt: prompt_lib.Prompts = None,
        *,
        max_length: annotations.PositiveInt = 64,
        decoder: Decoder | None = None,
        batch_size: annotations.PositiveInt = 32,
        seed: annotations.Seed = 0,
    ) -> list[str]:
        """The best answer to each text, in the order of `texts`.

        An answer that is a label of the decoder, or of the prompt's card, is written as there. A
        warning says how many answers are cut off at `max_length`.

        Args:
          texts: the inputs, of any length: any iterable of `str`, such as a list, a generator, an
            array, or a column of a pandas or pyarrow table.
          prompt: for all texts; or an iterable with one for each, which share passes: of one length
            and place; None for the model alone.
          max_length: tokens of an answer at most, its end token among them.
          decoder: greedy by default; pt.BeamSearch(num_decodes=4), pt.Sampling(temperature=0.7),
            or pt.LabelRanking(["negative", "positive"]), by which every answer is a label.
          batch_size: texts of a pass at most.
          seed: of a decoder that samples.

        Raises:
          TypeError: an argument of another type, or an element of `texts` that is not a `str`.
          ValueError: a value out of range, or prompts that do not fit.
        """
        found, tokens = self._decode(texts, prompt, max_length, decoder, batch_size, seed)
        _report_truncation([ids[:1] for ids in tokens], max_length)
        return [best.text for best, *_ in found]

    @arguments.checked(PREDICTION_NAMES)
    def answers(
        self,
        texts: Iterable[str],
        prompt: prompt_lib.Prompts = None,
        *,
        max_length: annotations.PositiveInt = 64,
        decoder: Decoder | None = None,
        batch_size: annotations.PositiveInt = 32,
        seed: annotations.Seed = 0,
    ) -> list[list[Answer]]:
        """All answers to each text with their scores, best first: beams, draws, or all labels.

        Arguments and errors are those of `generate`.
        """
        found, tokens = self._decode(texts, prompt, max_length, decoder, batch_size, seed)
        _report_truncation(tokens, max_length)
        return found

    def _decode(
        self,
        texts: Iterable[str],
        prompt: prompt_lib.Prompts,
        max_length: int,
        decoder: Decoder | None,
        batch_size: int,
        seed: int,
    ) -> tuple[list[list[Answer]], list[Int[np.ndarray, "N L"]]]:
        """What `answers` returns, and the tokens of each text's answers."""
        texts = texts_lib.to_strings("texts", texts)
        decoder = decoder or decoding.Greedy()
        listed = getattr(decoder, "labels", ())
        labels.check_labels(listed, self.vocabulary, "labels of LabelRanking", labels.PYTHON_FIX)
        loaded, task = self._task(texts, prompt, decoder=decoder)
        answerer = self._answerer(loaded.model, seed)
        found: list[list[Answer]] = [[] for _ in texts]
        tokens: list[np.ndarray] = []
        rows = self._rows(len(texts), batch_size)
        for number, (which, batch) in enumerate(task.batches(rows, loaded.soft_tokens)):
            decodes, scores = answerer.predict(loaded.params, batch, max_length, number)
            for row, ids, of_ids in zip(which.tolist(), decodes, scores, strict=False):
                texts_of_row = [task.detokenize(each, task.examples[row]["prompt"]) for each in ids]
                found[row] = list(map(Answer, texts_of_row, of_ids.tolist()))
                tokens.append(ids)
        return found, tokens

    @arguments.checked(PREDICTION_NAMES)
    def score(
        self,
        texts: Iterable[str],
        targets: Iterable[str],
        prompt: prompt_lib.Prompts = None,
        *,
        batch_size: annotations.PositiveInt = 32,
    ) -> Float[np.ndarray, " n"]:
        """log p(target | text), summed over the target's tokens and its end token.

        Args:
          texts: the inputs, an iterable as in `generate`.
          targets: an iterable with one for each.
          prompt: see `generate`.
          batch_size: texts of a pass at most.

        Raises:
          TypeError: as `generate`.
          ValueError: as `generate`, or not one target for each text.
        """
        texts = texts_lib.to_strings("texts", texts)
        targets = texts_lib.to_strings("targets", targets)
        if len(targets) != len(texts):
            raise ValueError(
                f"targets has {len(targets)} elements and texts has {len(texts)}; expected one "
                "target for each text. Pass lists of equal length."
            )
        loaded, task = self._task(texts, prompt, targets)
        labels.warn_of_labels(task.target_labels, self.vocabulary, "targets", labels.PYTHON_FIX)
        answerer = self._answerer(loaded.model, 0)
        found = np.zeros(len(texts), np.float32)
        batches = task.batches(self._rows(len(texts), batch_size), loaded.soft_tokens)
        for which, batch in batches:
            found[which] = answerer.score(loaded.params, batch)[: len(which)]
        return found

    def _task(
        self,
        texts: Sequence[str],
        prompt: prompt_lib.Prompts,
        targets: Sequence[str] | None = None,
        decoder: Decoder | None = None,
    ) -> tuple[state.LoadedModel, evaluation_task.EvaluationTask]:
        """The model with these prompts, and the texts as what it answers."""
        prompts, names = prompt_lib.distinct(prompt, len(texts))
        pairs = zip(texts, targets or [""] * len(texts), strict=True)
        examples = [vocabularies.tokenize_pair(*pair, self.vocabulary) for pair in pairs]
        for name, feature, some in (("texts", "inputs", texts), ("targets", "targets", targets)):
            ids = [example[feature] for example in examples]
            vocabulary_checks.check_unknown(name, some or (), ids, self.vocabulary)
        named = [{**e, "prompt": str(name)} for e, name in zip(examples, names, strict=True)]
        length = len(prompts[0]) if prompts else 0
        # Few lengths of rows: a program is compiled for each.
        longest = {
            key: batching.round_up(more + max((len(e[key]) for e in examples), default=1)) - more
            for key, more in (("inputs", length), ("targets", 0))
        }
        room = batching.MaxLengths.from_features(longest)
        loaded = self._with_prompts(prompts, decoder or decoding.Greedy())
        listed = getattr(decoder, "labels", ())
        known: dict[str | None, Sequence[str]] = {None: listed}
        known |= {str(i): [*listed, *each.labels] for i, each in enumerate(prompts)}
        is_calibrated = getattr(decoder, "normalization", "none") == "calibration"
        neutral = "" if is_calibrated else None
        return loaded, evaluation_task.EvaluationTask(
            "texts", named, room, None, self.vocabulary, known, neutral
        )

    def _rows(self, count: int, batch_size: int) -> int:
        """Of a batch: few where the texts are few, in powers of 2."""
        mesh = self._loaded.mesh
        partitioning.check_batch_size(batch_size, mesh, "batch_size")
        rows = mesh.shape[partitioning.DATA]
        while rows < min(count, batch_size):
            rows *= 2
        return min(rows, batch_size)

    def _load_prompts(
        self, prompts: tuple[prompt_lib.Prompt, ...], decoder: Decoder
    ) -> state.LoadedModel:
        method = prompt_lib.as_method(prompts)
        loaded = dataclasses.replace(self._loaded, model=self._network(method, decoder))
        if not prompts:
            return loaded
        return state.with_added(loaded, prompt_lib.as_initializer(prompts, loaded.digest))

    def _make_network(self, method: base.Method, decoder: Decoder) -> network.EncoderDecoderModel:
        return dataclasses.replace(self._loaded.model, method=method, decoder=decoder)

    def _make_answerer(self, model: network.EncoderDecoderModel, seed: int) -> evaluator.Answerer:
        return evaluator.Answerer(dataclasses.replace(self._loaded, model=model), seed)


def _report_truncation(tokens: Iterable[Int[np.ndarray, "N L"]], max_length: int) -> None:
    counter = truncation.TruncationCounter()
    for ids in tokens:
        counter.add(ids)
    counter.report("texts", max_length, "max_length")

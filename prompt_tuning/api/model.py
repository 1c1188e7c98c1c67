"""A frozen T5 in memory: loading it, answering and scoring texts with it."""

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float

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
from prompt_tuning.inference import predictor as predictor_lib
from prompt_tuning.inference import truncation
from prompt_tuning.methods import base
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import decoding
from prompt_tuning.models import model as network
from prompt_tuning.training import state

# Compiled programs, and tables of prompts on the devices, that a model keeps.
MAX_CACHED = 32

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
        self._compile: Callable[..., predictor_lib.Predictor]
        self._load_prompts: Callable[..., predictor_lib.Predictor]
        self._compile = functools.lru_cache(MAX_CACHED)(self._make_predictor)
        self._load_prompts = functools.lru_cache(MAX_CACHED)(self._make_predictor_with)

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
        predictions = self._decode(texts, prompt, max_length, decoder, batch_size, seed, 1)
        return [prediction.texts[0] for prediction in predictions]

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
        predictions = self._decode(texts, prompt, max_length, decoder, batch_size, seed)
        return [list(map(Answer, each.texts, each.scores)) for each in predictions]

    def _decode(
        self,
        texts: Iterable[str],
        prompt: prompt_lib.Prompts,
        max_length: int,
        decoder: Decoder | None,
        batch_size: int,
        seed: int,
        num_decodes: int | None = None,
    ) -> list[predictor_lib.Prediction]:
        """Returns the predictions for each text, and reports those that are cut off."""
        texts = texts_lib.to_strings("texts", texts)
        decoder = decoder or decoding.Greedy()
        listed = getattr(decoder, "labels", ())
        labels.check_labels(listed, self.vocabulary, "labels of LabelRanking", labels.PYTHON_FIX)
        prompts, names = prompt_lib.distinct(prompt, len(texts))
        task = self._make_task(texts, prompts, names, decoder=decoder, max_length=max_length)
        predictor = self._load_prompts(prompts, decoder).with_seed(seed)
        rows = self._rows(len(texts), batch_size)
        predictions = predictor.predict(task, rows, num_decodes=num_decodes)
        is_truncated = collections.Counter(x for p in predictions for x in p.is_truncated)
        truncation.report("texts", is_truncated, max_length, "max_length")
        return predictions

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
        prompts, names = prompt_lib.distinct(prompt, len(texts))
        task = self._make_task(texts, prompts, names, targets)
        labels.warn_of_labels(task.target_labels, self.vocabulary, "targets", labels.PYTHON_FIX)
        predictions = self._load_prompts(prompts, decoding.Greedy()).predict(
            task, self._rows(len(texts), batch_size), num_decodes=0, scores_targets=True
        )
        return np.array([prediction.target_score for prediction in predictions], np.float32)

    def _make_task(
        self,
        texts: Sequence[str],
        prompts: Sequence[prompt_lib.Prompt],
        prompt_numbers: Sequence[int],
        targets: Sequence[str] | None = None,
        *,
        decoder: Decoder | None = None,
        max_length: int = 0,
    ) -> evaluation_task.EvaluationTask:
        """Tokenizes the texts as a task; without `targets` for predictions of `max_length` tokens."""
        pairs = zip(texts, targets or [""] * len(texts), strict=True)
        tokenized = [vocabularies.tokenize_pair(*pair, self.vocabulary) for pair in pairs]
        for name, feature, listed in (("texts", "inputs", texts), ("targets", "targets", targets)):
            ids = [example[feature] for example in tokenized]
            vocabulary_checks.check_unknown(name, listed or (), ids, self.vocabulary)
        longest = {
            feature: max((len(example[feature]) for example in tokenized), default=1)
            for feature in ("inputs", "targets")
        }
        # Few lengths of rows, since a program is compiled for each.
        soft = len(prompts[0]) if prompts else 0
        inputs = batching.round_up(soft + longest["inputs"]) - soft
        lengths = batching.MaxLengths(inputs, max_length or batching.round_up(longest["targets"]))
        known: dict[str | None, Sequence[str]] = {None: getattr(decoder, "labels", ())}
        known |= {str(i): [*known[None], *each.labels] for i, each in enumerate(prompts)}
        is_calibrated = getattr(decoder, "normalization", "none") == "calibration"
        return evaluation_task.EvaluationTask(
            "texts",
            [{**e, "prompt": str(i)} for e, i in zip(tokenized, prompt_numbers, strict=True)],
            lengths,
            None,
            self.vocabulary,
            known,
            "" if is_calibrated else None,
        )

    def _rows(self, count: int, batch_size: int) -> int:
        """Of a batch: few where the texts are few, in powers of 2."""
        mesh = self._loaded.mesh
        partitioning.check_batch_size(batch_size, mesh, "batch_size")
        rows = mesh.shape[partitioning.DATA]
        while rows < min(count, batch_size):
            rows *= 2
        return min(rows, batch_size)

    def _make_predictor_with(
        self, prompts: tuple[prompt_lib.Prompt, ...], decoder: Decoder
    ) -> predictor_lib.Predictor:
        predictor = self._compile(prompt_lib.as_method(prompts), decoder)
        if not prompts:
            return predictor
        initializer = prompt_lib.as_initializer(prompts, self._loaded.digest)
        return predictor.with_params(state.with_adapter(predictor.loaded, initializer).params)

    def _make_predictor(self, method: base.Method, decoder: Decoder) -> predictor_lib.Predictor:
        model = dataclasses.replace(self._loaded.model, method=method, decoder=decoder)
        return predictor_lib.Predictor(dataclasses.replace(self._loaded, model=model))

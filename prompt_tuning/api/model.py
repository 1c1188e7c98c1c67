"""A frozen T5 in memory: loading it, answering and scoring texts with it."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float

from prompt_tuning import assets, partitioning
from prompt_tuning.api import prompt as prompt_lib
from prompt_tuning.checkpoints import base_model
from prompt_tuning.data import batching, bucketing, epochs, evaluation_task, vocabularies
from prompt_tuning.models import config as config_lib
from prompt_tuning.models import decoding
from prompt_tuning.models import model as network
from prompt_tuning.prompts import module
from prompt_tuning.runtime import counts, evaluator, state

# Programs, and tables of prompts on the devices, that a model keeps.
KEPT = 32

Decoder = decoding.Decoder | decoding.LabelRanking


class Answer(NamedTuple):
    """A text, and by what its decoder ranks it: log p(text | input); beams have a length penalty."""

    text: str
    score: float


def load_model(
    path: epath.PathLike,
    *,
    config: config_lib.T5Config | None = None,
    vocabulary: epath.PathLike | vocabularies.Vocabulary | None = None,
    extra_ids: int = 0,
    dtype: str | None = None,
    weights_dtype: str = "float32",
    num_partitions: int = 1,
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
            f"{path} does not say what network and vocabulary it has: it has no config.json; expected "
            "both as arguments: config=pt.T5Config(…) with the model's sizes, and vocabulary= with its "
            "sentencepiece model"
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

    def generate(
        self,
        texts: Sequence[str],
        prompt: prompt_lib.Prompts = None,
        *,
        max_length: int = 64,
        decoder: Decoder | None = None,
        batch_size: int = 32,
        seed: int = 0,
    ) -> list[str]:
        """The best answer to each text, in the order of `texts`.

        Args:
          texts: the inputs, of any length.
          prompt: for all texts; or one for each, which share passes: of one length and place;
            None for the model alone.
          max_length: tokens of an answer at most, its end token among them.
          decoder: greedy by default; pt.BeamSearch(num_decodes=4), pt.Sampling(temperature=0.7),
            or pt.LabelRanking(["negative", "positive"]), by which every answer is a label.
          batch_size: texts of a pass at most.
          seed: of a decoder that samples.
        """
        found = self.answers(
            texts, prompt, max_length=max_length, decoder=decoder, batch_size=batch_size, seed=seed
        )
        return [best.text for best, *_ in found]

    def answers(
        self,
        texts: Sequence[str],
        prompt: prompt_lib.Prompts = None,
        *,
        max_length: int = 64,
        decoder: Decoder | None = None,
        batch_size: int = 32,
        seed: int = 0,
    ) -> list[list[Answer]]:
        """All answers to each text with their scores, best first: beams, draws, or all labels.

        Arguments are those of `generate`.
        """
        counts.check("max_length", max_length, 1)
        decoder = decoder or decoding.Greedy()
        loaded, task = self._task(texts, prompt, decoder=decoder)
        answerer, spelled = self._answerer(loaded.model, seed), {}
        if isinstance(decoder, decoding.LabelRanking):
            # A label that the vocabulary writes otherwise is the label.
            spelled = {self.vocabulary.decode(self.vocabulary.encode(x)): x for x in decoder.labels}
        found: list[list[Answer]] = [[] for _ in texts]
        batches = task.batches(self._rows(len(texts), batch_size), loaded.soft_tokens)
        for number, (which, batch) in enumerate(batches):
            decodes, scores = answerer.predict(loaded.params, batch, max_length, number)
            for row, ids, of_ids in zip(which.tolist(), decodes, scores, strict=False):
                own = [self.vocabulary.decode(each) for each in ids]
                found[row] = [
                    Answer(spelled.get(text, text), score)
                    for text, score in zip(own, of_ids.tolist(), strict=True)
                ]
        return found

    def score(
        self,
        texts: Sequence[str],
        targets: Sequence[str],
        prompt: prompt_lib.Prompts = None,
        *,
        batch_size: int = 32,
    ) -> Float[np.ndarray, " n"]:
        """log p(target | text), summed over the target's tokens and its end token.

        Args:
          texts: the inputs.
          targets: one for each.
          prompt: see `generate`.
          batch_size: texts of a pass at most.
        """
        loaded, task = self._task(texts, prompt, targets)
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
        _check_texts("texts", texts)
        if targets is not None:
            _check_texts("targets", targets, len(texts))
        prompts, names = prompt_lib.distinct(prompt, len(texts))
        examples = epochs.tokenized(texts, targets or [""] * len(texts), self.vocabulary)
        named = [{**e, "prompt": str(name)} for e, name in zip(examples, names, strict=True)]
        length = len(prompts[0]) if prompts else 0
        # Few lengths of rows: a program is compiled for each.
        longest = {
            key: bucketing.round_up(more + max((len(e[key]) for e in examples), default=1)) - more
            for key, more in (("inputs", length), ("targets", 0))
        }
        room = batching.Lengths.from_features(longest)
        loaded = self._with_prompts(prompts, decoder or decoding.Greedy())
        return loaded, evaluation_task.EvaluationTask("texts", named, room, None, self.vocabulary)

    def _rows(self, count: int, batch_size: int) -> int:
        """Of a batch: few where the texts are few, in powers of 2."""
        counts.check("batch_size", batch_size, 1)
        mesh = self._loaded.mesh
        partitioning.check_batch_size(batch_size, mesh, "batch_size")
        rows = mesh.shape[partitioning.DATA]
        while rows < min(count, batch_size):
            rows *= 2
        return min(rows, batch_size)

    def _load_prompts(
        self, prompts: tuple[prompt_lib.Prompt, ...], decoder: Decoder
    ) -> state.LoadedModel:
        kind = prompt_lib.as_module(prompts)
        loaded = dataclasses.replace(self._loaded, model=self._network(kind, decoder))
        if kind is None:
            return loaded
        return state.with_added(loaded, prompt_lib.as_initializer(prompts, loaded.digest))

    def _make_network(
        self, kind: module.Prompt | None, decoder: Decoder
    ) -> network.EncoderDecoderModel:
        return dataclasses.replace(self._loaded.model, prompt=kind, decoder=decoder)

    def _make_answerer(self, model: network.EncoderDecoderModel, seed: int) -> evaluator.Answerer:
        return evaluator.Answerer(dataclasses.replace(self._loaded, model=model), seed)


def _check_texts(name: str, texts: Any, count: int | None = None) -> None:
    """Raises ValueError unless `texts` are strings, `count` of them where that is told."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise ValueError(f"{name} is {texts!r:.80}; expected a list of strings: give [{name}]")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{number}] is {text!r:.80}; expected a string")
    if count not in (None, len(texts)):
        raise ValueError(
            f"{name} has {len(texts)} strings, and there are {count} texts; expected one for each"
        )

"""A golden model with its prompt."""

import dataclasses

import jax
import numpy as np
import pytest

from prompt_tuning import params
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import decoder_only_model, model


@dataclasses.dataclass(frozen=True)
class Prompted:
    """A golden model with its prompt, and its jitted logits."""

    model: model.EncoderDecoderModel
    params: dict
    length: int

    def __post_init__(self):
        object.__setattr__(self, "logits", jax.jit(self.model.logits))

    @property
    def soft_ids(self) -> np.ndarray:
        """[P]: the ids of the prompt."""
        return self.model.config.vocab_size + np.arange(self.length, dtype=np.int32)

    def prefixed(self, ids: np.ndarray) -> np.ndarray:
        """Rows of ids [B, T] with the prompt in front: [B, P + T]."""
        return np.concatenate([np.tile(self.soft_ids, (len(ids), 1)), ids], axis=1)


@pytest.fixture(scope="module")
def prompted(golden) -> Prompted:
    prompt = golden.arrays["prompt"]
    weights = params.merge(golden.params, params.unflatten({prompt_method.PATH: prompt}))
    with_prompt = model.EncoderDecoderModel(golden.config, prompt_method.Prompt(len(prompt)))
    return Prompted(with_prompt, weights, len(prompt))


@pytest.fixture(scope="module")
def prompted_teacher(golden, prompted):
    """The golden's batch with the prompt in front: what `prompt_logits` are of."""
    inputs = prompted.prefixed(golden.arrays["inputs"])
    return golden.teacher | {"encoder_input_tokens": inputs}


@pytest.fixture(scope="module")
def prefix_lm(decoder_only_golden) -> Prompted:
    """The golden decoder without encoder, prompted: prompt and inputs see one another."""
    prompt = decoder_only_golden.arrays["prompt"]
    with_prompt = decoder_only_model.DecoderOnlyModel(
        decoder_only_golden.config,
        prompt_method.Prompt(len(prompt)),
        inputs_bidirectional_attention=True,
    )
    added = params.unflatten({with_prompt.prompt_path: prompt})
    return Prompted(with_prompt, params.merge(decoder_only_golden.params, added), len(prompt))


@pytest.fixture(scope="module", params=["bidirectional", "causal"])
def decoder_only(prefix_lm, request) -> Prompted:
    """The same under either mask."""
    if request.param == "bidirectional":
        return prefix_lm
    causal = dataclasses.replace(prefix_lm.model, inputs_bidirectional_attention=False)
    return dataclasses.replace(prefix_lm, model=causal)


@pytest.fixture
def decoder_only_teacher(decoder_only_golden, prefix_lm) -> dict[str, np.ndarray]:
    """Its batch with the prompt in front: what the golden's logits with a prompt are of."""
    inputs = prefix_lm.prefixed(decoder_only_golden.arrays["inputs"])
    targets = decoder_only_golden.arrays["targets"]
    return {
        "encoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets > 0).astype(np.int32),
    }

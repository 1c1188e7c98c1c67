"""Writes tests/testdata/t5_*.npz: outputs of transformers and PEFT for tiny random T5 models.

The tests compare this package with them, so nothing of this package is imported. To write them
again, in a separate environment:

    python3.11 -m venv goldens && goldens/bin/pip install torch transformers peft numpy
    goldens/bin/python scripts/make_goldens.py tests/testdata

The stored files are from torch 2.13.0, transformers 5.23.0, peft 0.21.2 and numpy 2.4.6; `versions`
in each file names them. scripts/make_family_goldens.py writes models of each family.

A file contains `params/PATH`, the weights in the names and layout of this package; `config`, JSON
arguments of T5Config; `inputs` [B, T] and `targets` [B, L], padded with 0; `logits` [B, L, V];
`prompt` [P, D] and `prompt_logits`, with the prompt in front; `greedy` [B, L]; `beams` [B, 4, L]
and `beam_scores` [B, 4], log probabilities without length penalty, best first.
"""

import json
import pathlib
import sys

import numpy as np
import peft
import torch
import transformers

VOCAB, WIDTH, HEADS, HEAD_SIZE, MLP = 32, 24, 3, 10, 40
LENGTHS = (24, 11, 2)
TARGET_LENGTHS = (5, 20, 9)
PROMPT_LENGTH, MAX_DECODE, BEAMS, EOS = 5, 12, 4, 1
VARIANTS = {
    "t5_gated_gelu_untied": {"tied": False, "feed_forward": "gated-gelu", "buckets": (32, 128)},
    "t5_relu_tied": {"tied": True, "feed_forward": "relu", "buckets": (8, 20)},
}
SEED = 2


class T5(transformers.T5ForConditionalGeneration):
    """Beam search that may finish any of its 2N candidates, as in T5X, not only the first N."""

    def _update_finished_beams(self, *, top_num_beam_mask, **state):
        mask = torch.ones_like(top_num_beam_mask)
        return super()._update_finished_beams(top_num_beam_mask=mask, **state)


def build(rng: np.random.Generator, tied: bool, feed_forward: str, buckets: tuple[int, int]) -> T5:
    """Makes a tiny T5 with random weights."""
    config = transformers.T5Config(
        vocab_size=VOCAB,
        d_model=WIDTH,
        d_kv=HEAD_SIZE,
        num_heads=HEADS,
        d_ff=MLP,
        num_layers=3,
        num_decoder_layers=2,  # At most num_layers, the size of transformers' cache.
        relative_attention_num_buckets=buckets[0],
        relative_attention_max_distance=buckets[1],
        feed_forward_proj=feed_forward,
        tie_word_embeddings=tied,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )
    model = T5(config).eval()
    if not tied:
        untie(model)
    fill(model, rng)
    return model


def untie(model: transformers.PreTrainedModel) -> None:
    """Separates the output layer: transformers 5 ties it for every config."""
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.shared.weight))


def fill(model: transformers.PreTrainedModel, rng: np.random.Generator) -> None:
    """Draws weights with varied logits and short decodes."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = rng.normal(size=weight.shape)
            if "layer_norm" in name:
                values = 1 + 0.2 * values
            elif "shared" not in name and "relative_attention_bias" not in name:
                values = values * weight.shape[1] ** -0.5
            if name.endswith((".o.weight", ".wo.weight")):
                values = 3 * values
            weight.copy_(torch.from_numpy(values))
        # A feature that all tokens share raises the logit of EOS.
        model.shared.weight[:, 0] = 3.0
        model.lm_head.weight[EOS, 0] += 2.0


def to_params(model: T5, tied: bool) -> dict:
    """Returns {path in this package: array}; kernels become [inputs, outputs]."""
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    params = {"token_embedder/embedding": tensors["shared.weight"]}
    if not tied:
        params["decoder/logits_dense/kernel"] = tensors["lm_head.weight"].T
    sublayers = {
        "encoder": [("SelfAttention", "attention", "attention")],
        "decoder": [
            ("SelfAttention", "self_attention", "self_attention"),
            ("EncDecAttention", "encoder_decoder_attention", "cross_attention"),
        ],
    }
    for stack, attentions in sublayers.items():
        params[f"{stack}/{stack}_norm/scale"] = tensors[f"{stack}.final_layer_norm.weight"]
        table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        params[f"{stack}/relpos_bias/rel_embedding"] = tensors[table].T
        for layer in range(len(getattr(model, stack).block)):
            path, block = f"{stack}/layers_{layer}", f"{stack}.block.{layer}.layer"
            for i, (torch_name, name, norm) in enumerate(attentions):
                scale = f"{path}/pre_{norm}_layer_norm/scale"
                params[scale] = tensors[f"{block}.{i}.layer_norm.weight"]
                for letter, kernel in zip("qkvo", ("query", "key", "value", "out"), strict=True):
                    weight = tensors[f"{block}.{i}.{torch_name}.{letter}.weight"]
                    params[f"{path}/{name}/{kernel}/kernel"] = weight.T
            mlp = f"{block}.{len(attentions)}"
            params[f"{path}/pre_mlp_layer_norm/scale"] = tensors[f"{mlp}.layer_norm.weight"]
            for kernel in ("wi", "wi_0", "wi_1", "wo"):
                if (weight := tensors.get(f"{mlp}.DenseReluDense.{kernel}.weight")) is not None:
                    params[f"{path}/mlp/{kernel}/kernel"] = weight.T
    return {f"params/{path}": value for path, value in params.items()}


def to_config(config: transformers.T5Config, tied: bool) -> str:
    """Returns JSON arguments of this package's T5Config."""
    gated = config.feed_forward_proj == "gated-gelu"
    settings = {
        "vocab_size": VOCAB,
        "embed_dim": WIDTH,
        "num_heads": HEADS,
        "head_dim": HEAD_SIZE,
        "mlp_dim": MLP,
        "num_encoder_layers": config.num_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "mlp_activations": ["gelu", "linear"] if gated else ["relu"],
        "logits_via_embedding": tied,
        "relative_attention_buckets": config.relative_attention_num_buckets,
        "relative_attention_max_distance": config.relative_attention_max_distance,
    }
    return json.dumps(settings)


def ragged(rng: np.random.Generator, lengths: tuple[int, ...]) -> np.ndarray:
    """Draws rows of random ids with EOS, padded with 0."""
    rows = np.zeros((len(lengths), max(lengths)), np.int32)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = [*rng.integers(2, VOCAB, length - 1), EOS]
    return rows


def padded(sequences: torch.Tensor) -> np.ndarray:
    """Returns generated ids [B, MAX_DECODE] without the start token, with 0 after EOS."""
    ids = sequences[:, 1:].numpy().astype(np.int32)
    ended = np.cumsum(ids == EOS, axis=1) - (ids == EOS)
    ids = np.where(ended, 0, ids)  # transformers pads beams with EOS.
    return np.pad(ids, ((0, 0), (0, MAX_DECODE - ids.shape[1])))


def to_batch(inputs: np.ndarray, targets: np.ndarray) -> dict[str, torch.Tensor]:
    """Returns the arguments of a forward pass with teacher forcing."""
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    return {
        "input_ids": torch.from_numpy(inputs).long(),
        "attention_mask": torch.from_numpy(inputs > 0).long(),
        "decoder_input_ids": torch.from_numpy(shifted).long(),
    }


def versions(*modules) -> str:
    """Formats the versions of modules."""
    return " ".join(f"{module.__name__}=={module.__version__}" for module in modules)


def golden(tied: bool, feed_forward: str, buckets: tuple[int, int]) -> dict:
    """Returns all arrays of one file."""
    rng = np.random.default_rng(SEED)
    model = build(rng, tied, feed_forward, buckets)
    arrays = to_params(model, tied) | {"config": to_config(model.config, tied)}
    inputs, targets = ragged(rng, LENGTHS), ragged(rng, TARGET_LENGTHS)
    batch = to_batch(inputs, targets)
    logits = model(**batch).logits
    settings = {"max_new_tokens": MAX_DECODE, "do_sample": False}
    encoder_inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    greedy = model.generate(**encoder_inputs, **settings)
    search = model.generate(
        **encoder_inputs,
        **settings,
        num_beams=BEAMS,
        num_return_sequences=BEAMS,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    beams = padded(search.sequences).reshape(len(LENGTHS), BEAMS, MAX_DECODE)
    if not (beams == EOS).any(-1).all():
        raise ValueError(f"a beam does not end within {MAX_DECODE} tokens; change SEED")
    tuned = peft.get_peft_model(
        model,
        peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=PROMPT_LENGTH),
    )
    # PEFT also has rows for the decoder, which it does not use.
    prompt = tuned.get_prompt_embedding_to_save("default")[:PROMPT_LENGTH]
    return arrays | {
        "inputs": inputs,
        "targets": targets,
        "logits": logits.numpy(),
        "greedy": padded(greedy),
        "beams": beams,
        "beam_scores": search.sequences_scores.reshape(len(LENGTHS), BEAMS).numpy(),
        "prompt": prompt.numpy(),
        "prompt_logits": tuned(**batch).logits.numpy(),
    }


def main(folder: pathlib.Path) -> None:
    """Writes every variant to `folder`."""
    torch.manual_seed(SEED)
    torch.set_grad_enabled(False)
    for name, variant in VARIANTS.items():
        arrays = golden(**variant) | {"versions": versions(torch, transformers, peft, np)}
        np.savez_compressed(folder / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

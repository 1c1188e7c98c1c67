"""Makes tests/testdata/t5_*.npz: what transformers and PEFT say of tiny random T5 models.

The tests compare this package with these files. Nothing of this package is imported here, so
that the files are another implementation's word. To make them again, in an environment of its own:

    python3.11 -m venv goldens && goldens/bin/pip install torch transformers peft numpy
    goldens/bin/python scripts/make_goldens.py tests/testdata

The models of each family, as transformers saves them, are made by scripts/make_family_goldens.py.
The stored files were made with torch 2.13.0, transformers 5.23.0, peft 0.21.2 and numpy 2.4.6;
each file also names the versions that made it (`versions`).

A file holds: `params/PATH`, the weights in our names and layout; `config`, JSON arguments of our
T5Config; `inputs` [B, T] and `targets` [B, L], padded with 0; `logits` [B, L, V]; `prompt` [P, D]
and `prompt_logits`, with the prompt in front; `greedy` [B, L]; `beams` [B, 4, L] and `beam_scores`
[B, 4], log probabilities without a length penalty, best first.
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
    """Beam search may end with any of its 2N candidates, as in T5X, not with the first N only."""

    def _update_finished_beams(self, *, top_num_beam_mask, **state):
        every = torch.ones_like(top_num_beam_mask)
        return super()._update_finished_beams(top_num_beam_mask=every, **state)


def build(rng: np.random.Generator, tied: bool, feed_forward: str, buckets: tuple[int, int]) -> T5:
    """A tiny T5 whose logits vary and whose decodes end soon."""
    config = transformers.T5Config(
        vocab_size=VOCAB,
        d_model=WIDTH,
        d_kv=HEAD_SIZE,
        num_heads=HEADS,
        d_ff=MLP,
        num_layers=3,
        num_decoder_layers=2,  # Not above num_layers: the size of transformers' cache.
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
    """An output layer of its own: transformers 5 ties whatever the config says."""
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.shared.weight))


def fill(model: transformers.PreTrainedModel, rng: np.random.Generator) -> None:
    """Weights that make the logits vary and the decodes end soon."""
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
        # A feature that all tokens share raises the end token's logit.
        model.shared.weight[:, 0] = 3.0
        model.lm_head.weight[EOS, 0] += 2.0


def our_params(model: T5, tied: bool) -> dict:
    """{our path: array}: torch keeps [outputs, inputs], we [inputs, outputs]."""
    theirs = {name: value.numpy() for name, value in model.state_dict().items()}
    ours = {"token_embedder/embedding": theirs["shared.weight"]}
    if not tied:
        ours["decoder/logits_dense/kernel"] = theirs["lm_head.weight"].T
    sublayers = {
        "encoder": [("SelfAttention", "attention", "attention")],
        "decoder": [
            ("SelfAttention", "self_attention", "self_attention"),
            ("EncDecAttention", "encoder_decoder_attention", "cross_attention"),
        ],
    }
    for stack, attentions in sublayers.items():
        ours[f"{stack}/{stack}_norm/scale"] = theirs[f"{stack}.final_layer_norm.weight"]
        table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ours[f"{stack}/relpos_bias/rel_embedding"] = theirs[table].T
        for layer in range(len(getattr(model, stack).block)):
            here, there = f"{stack}/layers_{layer}", f"{stack}.block.{layer}.layer"
            for i, (name, our_name, norm) in enumerate(attentions):
                scale = f"{here}/pre_{norm}_layer_norm/scale"
                ours[scale] = theirs[f"{there}.{i}.layer_norm.weight"]
                for letter, kernel in zip("qkvo", ("query", "key", "value", "out"), strict=True):
                    weight = theirs[f"{there}.{i}.{name}.{letter}.weight"]
                    ours[f"{here}/{our_name}/{kernel}/kernel"] = weight.T
            last = f"{there}.{len(attentions)}"
            ours[f"{here}/pre_mlp_layer_norm/scale"] = theirs[f"{last}.layer_norm.weight"]
            for kernel in ("wi", "wi_0", "wi_1", "wo"):
                if (weight := theirs.get(f"{last}.DenseReluDense.{kernel}.weight")) is not None:
                    ours[f"{here}/mlp/{kernel}/kernel"] = weight.T
    return {f"params/{path}": value for path, value in ours.items()}


def our_config(config: transformers.T5Config, tied: bool) -> str:
    """JSON arguments of our T5Config."""
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
    """Rows of random ids with an end token, padded with 0."""
    rows = np.zeros((len(lengths), max(lengths)), np.int32)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = [*rng.integers(2, VOCAB, length - 1), EOS]
    return rows


def padded(sequences: torch.Tensor) -> np.ndarray:
    """Generated ids without the start token, MAX_DECODE long, 0 after the end token."""
    ids = sequences[:, 1:].numpy().astype(np.int32)
    ended = np.cumsum(ids == EOS, axis=1) - (ids == EOS)
    ids = np.where(ended, 0, ids)  # transformers fills beams with the end token.
    return np.pad(ids, ((0, 0), (0, MAX_DECODE - ids.shape[1])))


def golden(tied: bool, feed_forward: str, buckets: tuple[int, int]) -> dict:
    """All arrays of one file."""
    rng = np.random.default_rng(SEED)
    model = build(rng, tied, feed_forward, buckets)
    arrays = our_params(model, tied) | {"config": our_config(model.config, tied)}
    inputs, targets = ragged(rng, LENGTHS), ragged(rng, TARGET_LENGTHS)
    read = {
        "input_ids": torch.from_numpy(inputs).long(),
        "attention_mask": torch.from_numpy(inputs > 0).long(),
    }
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    teacher = {"decoder_input_ids": torch.from_numpy(shifted).long()}
    logits = model(**read, **teacher).logits
    write = {"max_new_tokens": MAX_DECODE, "do_sample": False}
    greedy = model.generate(**read, **write)
    found = model.generate(
        **read,
        **write,
        num_beams=BEAMS,
        num_return_sequences=BEAMS,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    beams = padded(found.sequences).reshape(len(LENGTHS), BEAMS, MAX_DECODE)
    if not (beams == EOS).any(-1).all():
        raise ValueError(f"a beam does not end within {MAX_DECODE} tokens; change SEED")
    tuned = peft.get_peft_model(
        model,
        peft.PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=PROMPT_LENGTH),
    )
    # PEFT also keeps rows for the decoder, and does not use them.
    prompt = tuned.get_prompt_embedding_to_save("default")[:PROMPT_LENGTH]
    return arrays | {
        "inputs": inputs,
        "targets": targets,
        "logits": logits.numpy(),
        "greedy": padded(greedy),
        "beams": beams,
        "beam_scores": found.sequences_scores.reshape(len(LENGTHS), BEAMS).numpy(),
        "prompt": prompt.numpy(),
        "prompt_logits": tuned(**read, **teacher).logits.numpy(),
    }


def main(folder: pathlib.Path) -> None:
    """Writes every variant into `folder`."""
    modules = (torch, transformers, peft, np)
    versions = " ".join(f"{module.__name__}=={module.__version__}" for module in modules)
    torch.manual_seed(SEED)
    torch.set_grad_enabled(False)
    for name, variant in VARIANTS.items():
        np.savez_compressed(folder / f"{name}.npz", **golden(**variant), versions=versions)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

"""Writes tests/testdata/decoder_only.npz: outputs of transformers' T5 decoder without an encoder.

Each row is computed alone, without padding: prompt vectors, the embedding of 0, the input, and the
targets except the last, with an explicit mask. Nothing of this package is imported. To write the
file again, in the environment of make_goldens.py:

    goldens/bin/python scripts/make_decoder_only_golden.py tests/testdata

The file contains `params/PATH`, `config` and `versions` as in make_goldens.py; `inputs` [B, T] and
`targets` [B, L], padded with 0; `prompt` [P, D]; and for the masks "bidirectional" and "causal"
`MASK_logits` [B, L, V] without the prompt, `MASK_prompt_logits` [B, L, V] and `MASK_greedy` [B, L]
with it. Logits of padding are 0.
"""

import json
import pathlib
import sys

import make_goldens
import numpy as np
import torch
import transformers
from transformers.models.t5 import modeling_t5

VOCAB, WIDTH, HEADS, HEAD_SIZE, MLP, LAYERS = 32, 24, 3, 10, 40, 2
INPUT_LENGTHS, TARGET_LENGTHS = (24, 11, 2), (5, 12, 9)
PROMPT_LENGTH, MAX_DECODE, EOS = 5, 12, 1
MASKS = ("bidirectional", "causal")
# Large updates of a layer; otherwise tied logits repeat the last token.
SPREAD, SEED = 8, 2


def build(rng: np.random.Generator) -> modeling_t5.T5Stack:
    """Makes a tiny random decoder."""
    config = transformers.T5Config(
        vocab_size=VOCAB,
        d_model=WIDTH,
        d_kv=HEAD_SIZE,
        num_heads=HEADS,
        d_ff=MLP,
        num_layers=LAYERS,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
        feed_forward_proj="gated-gelu",
        is_decoder=True,
        use_cache=False,
        dropout_rate=0.0,
    )
    stack = modeling_t5.T5Stack(config).eval()
    for name, weight in stack.named_parameters():
        values = rng.normal(size=weight.shape)
        if "layer_norm" in name:
            values = 1 + 0.2 * values
        elif "embed_tokens" not in name and "relative_attention_bias" not in name:
            values = values * weight.shape[1] ** -0.5
        if name.endswith((".o.weight", ".wo.weight")):
            values = SPREAD * values
        weight.copy_(torch.from_numpy(values))
    return stack


def to_params(stack: modeling_t5.T5Stack) -> dict:
    """Returns {path in this package: array} without cross-attention."""
    tensors = {name: value.numpy() for name, value in stack.state_dict().items()}
    table = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    params = {
        "token_embedder/embedding": tensors["embed_tokens.weight"],
        "decoder_norm/scale": tensors["final_layer_norm.weight"],
        "relpos_bias/rel_embedding": tensors[table].T,
    }
    for i in range(LAYERS):
        path, block = f"layers_{i}", f"block.{i}.layer"
        for name, index in (("self_attention", 0), ("mlp", 2)):
            scale = tensors[f"{block}.{index}.layer_norm.weight"]
            params[f"{path}/pre_{name}_layer_norm/scale"] = scale
        for letter, kernel in zip("qkvo", ("query", "key", "value", "out"), strict=True):
            weight = tensors[f"{block}.0.SelfAttention.{letter}.weight"]
            params[f"{path}/self_attention/{kernel}/kernel"] = weight.T
        for kernel in ("wi_0", "wi_1", "wo"):
            weight = tensors[f"{block}.2.DenseReluDense.{kernel}.weight"]
            params[f"{path}/mlp/{kernel}/kernel"] = weight.T
    return {f"params/decoder/{path}": value for path, value in params.items()}


def logits(
    stack: modeling_t5.T5Stack,
    prompt: np.ndarray,
    inputs: np.ndarray,
    targets: np.ndarray,
    mask: str,
) -> np.ndarray:
    """Computes tied logits [L, V] of the targets of one row."""
    ids = torch.from_numpy(np.concatenate([[0], inputs, targets[:-1]])).long()
    x = torch.cat([torch.from_numpy(prompt).float(), stack.embed_tokens(ids)])[None]
    size = x.shape[1]
    is_visible = torch.ones(size, size).tril().bool()
    if mask == "bidirectional":
        prefix = len(prompt) + 1 + len(inputs)
        is_visible[:prefix, :prefix] = True
    bias = torch.where(is_visible, 0.0, torch.finfo(torch.float32).min)[None, None]
    out = stack(inputs_embeds=x, attention_mask=bias).last_hidden_state[0, -len(targets) :]
    return (out @ stack.embed_tokens.weight.T * WIDTH**-0.5).numpy()


def greedy(stack, prompt: np.ndarray, inputs: np.ndarray, mask: str) -> np.ndarray:
    """Decodes greedily to [MAX_DECODE]."""
    row: list[int] = []
    while len(row) < MAX_DECODE and EOS not in row:
        targets = np.array([*row, 0])
        row.append(int(logits(stack, prompt, inputs, targets, mask)[-1].argmax()))
    return np.pad(row, (0, MAX_DECODE - len(row))).astype(np.int32)


def ragged(rng: np.random.Generator, lengths: tuple[int, ...]) -> list[np.ndarray]:
    """Draws rows of random ids with EOS."""
    return [np.array([*rng.integers(2, VOCAB, n - 1), EOS], np.int32) for n in lengths]


def padded(rows: list[np.ndarray]) -> np.ndarray:
    """Stacks rows, padded with 0."""
    length = max(map(len, rows))
    return np.stack(
        [np.pad(row, [(0, length - len(row))] + [(0, 0)] * (row.ndim - 1)) for row in rows]
    )


def golden() -> dict:
    """Returns all arrays of the file."""
    rng = np.random.default_rng(SEED)
    stack = build(rng)
    inputs, targets = ragged(rng, INPUT_LENGTHS), ragged(rng, TARGET_LENGTHS)
    prompt = rng.normal(size=(PROMPT_LENGTH, WIDTH)).astype(np.float32)
    arrays = to_params(stack) | {"inputs": padded(inputs), "targets": padded(targets)}
    pairs = list(zip(inputs, targets, strict=True))
    for mask in MASKS:
        for name, vectors in (("logits", prompt[:0]), ("prompt_logits", prompt)):
            rows = [logits(stack, vectors, *pair, mask) for pair in pairs]
            arrays[f"{mask}_{name}"] = padded(rows)
        arrays[f"{mask}_greedy"] = np.stack([greedy(stack, prompt, x, mask) for x in inputs])
    settings = {
        "vocab_size": VOCAB,
        "embed_dim": WIDTH,
        "num_heads": HEADS,
        "head_dim": HEAD_SIZE,
        "mlp_dim": MLP,
        "num_encoder_layers": 0,
        "num_decoder_layers": LAYERS,
        "mlp_activations": ["gelu", "linear"],
        "logits_via_embedding": True,
        "relative_attention_buckets": stack.config.relative_attention_num_buckets,
        "relative_attention_max_distance": stack.config.relative_attention_max_distance,
    }
    return arrays | {"prompt": prompt, "config": json.dumps(settings)}


def main(folder: pathlib.Path) -> None:
    """Writes the file to `folder`."""
    versions = make_goldens.versions(torch, transformers, np)
    torch.set_grad_enabled(False)
    np.savez_compressed(folder / "decoder_only.npz", **golden(), versions=versions)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

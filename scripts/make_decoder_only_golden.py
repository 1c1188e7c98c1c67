"""Makes tests/testdata/decoder_only.npz: what transformers' decoder of a T5 says, used without encoder.

Each row is read alone, without padding: the prompt's vectors, the embedding of 0, the input, the
targets but the last, under a mask that is written out here. Nothing of this package is imported. To
make the file again, in the environment of scripts/make_goldens.py:

    goldens/bin/python scripts/make_decoder_only_golden.py tests/testdata

A file holds `params/PATH`, `config` and `versions` as those of make_goldens.py; `inputs` [B, T] and
`targets` [B, L], padded with 0; `prompt` [P, D]; for both masks, "bidirectional" and "causal",
`MASK_logits` [B, L, V] without the prompt, `MASK_prompt_logits` [B, L, V] and `MASK_greedy` [B, L]
with it. Beyond a row's targets logits are 0.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from transformers.models.t5 import modeling_t5

VOCAB, WIDTH, HEADS, HEAD_SIZE, MLP, LAYERS = 32, 24, 3, 10, 40, 2
INPUT_LENGTHS, TARGET_LENGTHS = (24, 11, 2), (5, 12, 9)
PROMPT_LENGTH, MAX_DECODE, EOS = 5, 12, 1
MASKS = ("bidirectional", "causal")
# Wide updates of a layer, or tied logits repeat the last token.
SPREAD, SEED = 8, 2


def build(rng: np.random.Generator) -> modeling_t5.T5Stack:
    """A tiny random decoder."""
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


def our_params(stack: modeling_t5.T5Stack) -> dict:
    """{our path: array} without cross-attention; torch keeps [outputs, inputs], we the reverse."""
    theirs = {name: value.numpy() for name, value in stack.state_dict().items()}
    table = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ours = {
        "token_embedder/embedding": theirs["embed_tokens.weight"],
        "decoder_norm/scale": theirs["final_layer_norm.weight"],
        "relpos_bias/rel_embedding": theirs[table].T,
    }
    for i in range(LAYERS):
        here, there = f"layers_{i}", f"block.{i}.layer"
        scales = {"self_attention": 0, "mlp": 2}
        for name, place in scales.items():
            ours[f"{here}/pre_{name}_layer_norm/scale"] = theirs[
                f"{there}.{place}.layer_norm.weight"
            ]
        for letter, kernel in zip("qkvo", ("query", "key", "value", "out"), strict=True):
            weight = theirs[f"{there}.0.SelfAttention.{letter}.weight"]
            ours[f"{here}/self_attention/{kernel}/kernel"] = weight.T
        for kernel in ("wi_0", "wi_1", "wo"):
            ours[f"{here}/mlp/{kernel}/kernel"] = theirs[
                f"{there}.2.DenseReluDense.{kernel}.weight"
            ].T
    return {f"params/decoder/{path}": value for path, value in ours.items()}


def logits(
    stack: modeling_t5.T5Stack,
    prompt: np.ndarray,
    inputs: np.ndarray,
    targets: np.ndarray,
    mask: str,
) -> np.ndarray:
    """Of each target of one row [L, V]; logits are tied."""
    read = torch.from_numpy(np.concatenate([[0], inputs, targets[:-1]])).long()
    x = torch.cat([torch.from_numpy(prompt).float(), stack.embed_tokens(read)])[None]
    size = x.shape[1]
    visible = torch.ones(size, size).tril().bool()
    if mask == "bidirectional":
        prefix = len(prompt) + 1 + len(inputs)
        visible[:prefix, :prefix] = True
    hidden = torch.where(visible, 0.0, torch.finfo(torch.float32).min)[None, None]
    out = stack(inputs_embeds=x, attention_mask=hidden).last_hidden_state[0, -len(targets) :]
    return (out @ stack.embed_tokens.weight.T * WIDTH**-0.5).numpy()


def greedy(stack, prompt: np.ndarray, inputs: np.ndarray, mask: str) -> np.ndarray:
    """The most probable next token, again and again from the start [MAX_DECODE]."""
    row: list[int] = []
    while len(row) < MAX_DECODE and EOS not in row:
        targets = np.array([*row, 0])
        row.append(int(logits(stack, prompt, inputs, targets, mask)[-1].argmax()))
    return np.pad(row, (0, MAX_DECODE - len(row))).astype(np.int32)


def ragged(rng: np.random.Generator, lengths: tuple[int, ...]) -> list[np.ndarray]:
    """Random ids with an end token."""
    return [np.array([*rng.integers(2, VOCAB, n - 1), EOS], np.int32) for n in lengths]


def padded(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of one length, filled up with 0."""
    length = max(map(len, rows))
    return np.stack(
        [np.pad(row, [(0, length - len(row))] + [(0, 0)] * (row.ndim - 1)) for row in rows]
    )


def golden() -> dict:
    """All arrays of the file."""
    rng = np.random.default_rng(SEED)
    stack = build(rng)
    inputs, targets = ragged(rng, INPUT_LENGTHS), ragged(rng, TARGET_LENGTHS)
    prompt = rng.normal(size=(PROMPT_LENGTH, WIDTH)).astype(np.float32)
    arrays = our_params(stack) | {"inputs": padded(inputs), "targets": padded(targets)}
    pairs = list(zip(inputs, targets, strict=True))
    for mask in MASKS:
        for name, some in (("logits", prompt[:0]), ("prompt_logits", prompt)):
            found = [logits(stack, some, *pair, mask) for pair in pairs]
            arrays[f"{mask}_{name}"] = padded(found)
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
    """Writes the file into `folder`."""
    modules = (torch, transformers, np)
    versions = " ".join(f"{module.__name__}=={module.__version__}" for module in modules)
    torch.set_grad_enabled(False)
    np.savez_compressed(folder / "decoder_only.npz", **golden(), versions=versions)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

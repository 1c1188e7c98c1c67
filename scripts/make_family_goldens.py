"""Writes tests/testdata/family_*.npz and parameter_counts.json: outputs of transformers per family.

Nothing of this package is imported. To write them again, in the environment of make_goldens.py:

    goldens/bin/python scripts/make_family_goldens.py tests/testdata

The stored files are from torch 2.13.0, transformers 5.23.0 (t5_unscaled: 5.24.0) and numpy 2.4.6;
`versions` in each .npz names them.

family_NAME.npz contains a tiny random model as transformers saves it: `config_json`, the text of
config.json, and `tensors/NAME`, the arrays of model.safetensors; `inputs` [B, T] and `targets`
[B, L], padded with 0; `logits` [B, L, V]; and for umT5 `greedy` [B, L] (the others decode as the
models of make_goldens.py). Inputs and targets of ByT5 are `input_texts` and `target_texts` in the
ids of its tokenizer.

parameter_counts.json is {name of a gin file of gin/models: number of parameters}.
"""

import json
import pathlib
import sys
import tempfile

import make_goldens
import numpy as np
import torch
import transformers
from safetensors import numpy as safetensors

CLASSES = {
    "t5": (transformers.T5Config, transformers.T5ForConditionalGeneration),
    "mt5": (transformers.MT5Config, transformers.MT5ForConditionalGeneration),
    "umt5": (transformers.UMT5Config, transformers.UMT5ForConditionalGeneration),
}
# Family -> model_type, rows of the embedding, feed-forward, tied logits. None: tied and not scaled, as
# transformers 5 reads tie_word_embeddings=False.
FAMILIES = {
    "t5_1_0": ("t5", 32128, "relu", True),
    "t5_1_1": ("t5", 32128, "gated-gelu", False),
    "mt5": ("mt5", 250112, "gated-gelu", False),
    "byt5": ("t5", 384, "gated-gelu", False),
    "umt5": ("umt5", 256384, "gated-gelu", False),
    "t5_unscaled": ("t5", 32128, "gated-gelu", None),
}
# From config.json of the public models: d_model, d_ff, num_heads, d_kv, layers of each stack.
T5_1_1_SIZES = {
    "small": (512, 1024, 6, 64, 8, 8),
    "base": (768, 2048, 12, 64, 12, 12),
    "large": (1024, 2816, 16, 64, 24, 24),
    "xl": (2048, 5120, 32, 64, 24, 24),
    "xxl": (4096, 10240, 64, 64, 24, 24),
}
SIZES = {
    "t5_1_0": {
        "small": (512, 2048, 8, 64, 6, 6),
        "base": (768, 3072, 12, 64, 12, 12),
        "large": (1024, 4096, 16, 64, 24, 24),
        "3B": (1024, 16384, 32, 128, 24, 24),
        "11B": (1024, 65536, 128, 128, 24, 24),
    },
    "t5_1_1": T5_1_1_SIZES,
    "mt5": T5_1_1_SIZES,
    "byt5": {
        "small": (1472, 3584, 6, 64, 12, 4),
        "base": (1536, 3968, 12, 64, 18, 6),
        "large": (1536, 3840, 16, 64, 36, 12),
        "xl": (2560, 6720, 32, 64, 36, 12),
        "xxl": (4672, 12352, 64, 64, 36, 12),
    },
    "umt5": {name: size for name, size in T5_1_1_SIZES.items() if name != "large"},
}
TINY = (16, 12, 2, 4, 3, 2)
TINY_ROWS = {"byt5": 384}
INPUT_TEXTS = ("naïve 漢字", "bytes, not pieces", "a")
TARGET_TEXTS = ("yes", "¿no?", "maybe so")


def build(family: str, size: tuple[int, ...], rows: int) -> transformers.PreTrainedModel:
    """Makes a model of the family; its logits are scaled only if `tied` is True."""
    kind, _, feed_forward, tied = FAMILIES[family]
    width, mlp, heads, head_size, encoder_layers, decoder_layers = size
    config_class, model_class = CLASSES[kind]
    config = config_class(
        vocab_size=rows,
        d_model=width,
        d_ff=mlp,
        num_heads=heads,
        d_kv=head_size,
        num_layers=encoder_layers,
        num_decoder_layers=decoder_layers,
        feed_forward_proj=feed_forward,
        tie_word_embeddings=bool(tied),
        decoder_start_token_id=0,
        dropout_rate=0.0,
        attn_implementation="eager",
    )
    model = model_class(config).eval()
    if tied is False:
        make_goldens.untie(model)
    if kind == "umt5":
        # Decides whether logits are scaled. It is False in the public models' config.json, and
        # transformers 5 changes it to True.
        model.config.tie_word_embeddings = False
    return model


def parameter_counts() -> dict[str, int]:
    """Counts parameters as {family_size: number}, without allocating them."""
    counts = {}
    with torch.device("meta"):
        for family, sizes in SIZES.items():
            for name, size in sizes.items():
                model = build(family, size, FAMILIES[family][1])
                counts[f"{family}_{name}"] = sum(weight.numel() for weight in model.parameters())
    return counts


def to_files(model: transformers.PreTrainedModel) -> dict:
    """Returns the contents of the files that save_pretrained writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        text = (pathlib.Path(folder) / "config.json").read_text()
        tensors = safetensors.load_file(pathlib.Path(folder) / "model.safetensors")
    return {"config_json": text} | {f"tensors/{name}": x for name, x in tensors.items()}


def ids_of(texts: tuple[str, ...]) -> np.ndarray:
    """Tokenizes texts with ByT5's tokenizer to [B, T], with EOS, padded with 0."""
    return transformers.ByT5Tokenizer()(list(texts), padding=True, return_tensors="np")["input_ids"]


def golden(family: str) -> dict:
    """Returns all arrays of one file."""
    rng = np.random.default_rng(make_goldens.SEED)
    model = build(family, TINY, TINY_ROWS.get(family, make_goldens.VOCAB))
    make_goldens.fill(model, rng)
    arrays = to_files(model)
    if family == "byt5":
        arrays |= {"input_texts": np.array(INPUT_TEXTS), "target_texts": np.array(TARGET_TEXTS)}
        inputs, targets = ids_of(INPUT_TEXTS), ids_of(TARGET_TEXTS)
    else:
        inputs = make_goldens.ragged(rng, make_goldens.LENGTHS)
        targets = make_goldens.ragged(rng, make_goldens.TARGET_LENGTHS)
    batch = make_goldens.to_batch(inputs, targets)
    logits = model(**batch).logits
    if family == "umt5":
        del batch["decoder_input_ids"]
        greedy = model.generate(**batch, max_new_tokens=make_goldens.MAX_DECODE, do_sample=False)
        arrays["greedy"] = make_goldens.padded(greedy)
    return arrays | {
        "inputs": inputs.astype(np.int32),
        "targets": targets.astype(np.int32),
        "logits": logits.numpy(),
    }


def main(folder: pathlib.Path) -> None:
    """Writes every family and the counts to `folder`."""
    versions = make_goldens.versions(torch, transformers, np)
    torch.manual_seed(make_goldens.SEED)
    torch.set_grad_enabled(False)
    for family in FAMILIES:
        np.savez_compressed(folder / f"family_{family}.npz", **golden(family), versions=versions)
    text = json.dumps(parameter_counts(), indent=2)
    (folder / "parameter_counts.json").write_text(text + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

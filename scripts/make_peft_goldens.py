"""Writes tests/testdata/peft_adapters.npz: adapters saved by PEFT, and their logits in PEFT.

The models are those of make_goldens.py. Nothing of this package is imported. To write the file
again, in the environment of make_goldens.py:

    goldens/bin/python scripts/make_peft_goldens.py tests/testdata

The stored file is from torch 2.13.0, transformers 5.23.0, peft 0.21.2 and numpy 2.4.6; `versions`
names them.

It contains `inputs` [B, T] and `targets` [B, L], padded with 0, and for each model and adapter
`MODEL/ADAPTER/config` and `…/weights`, the bytes of its two files, and `…/logits` [B, L, V] of the
adapter loaded again.
"""

import pathlib
import sys
import tempfile

import make_goldens
import numpy as np
import peft
import torch
import transformers

LENGTHS, TARGET_LENGTHS, PROMPT_LENGTH = (12, 5), (6, 3), 4
HEADS_WIDTH = make_goldens.HEADS * make_goldens.HEAD_SIZE
TASK = {"task_type": "SEQ_2_SEQ_LM"}
PROMPT = {**TASK, "num_virtual_tokens": PROMPT_LENGTH}
GATED, RELU = make_goldens.VARIANTS
# P-tuning stores the output of its encoder, also of an LSTM.
ADAPTERS = {
    (GATED, "prompt"): peft.PromptTuningConfig(**PROMPT),
    (GATED, "prompt_encoder_only"): peft.PromptTuningConfig(**PROMPT, num_transformer_submodules=1),
    (GATED, "p_tuning_mlp"): peft.PromptEncoderConfig(**PROMPT, encoder_hidden_size=8),
    (GATED, "p_tuning_lstm"): peft.PromptEncoderConfig(
        **PROMPT, encoder_hidden_size=8, encoder_reparameterization_type="LSTM"
    ),
    # PEFT takes the number of layers from the encoder. With an odd number each layer has separate
    # keys and values; with an even number two layers share them.
    (GATED, "prefix"): peft.PrefixTuningConfig(**PROMPT, token_dim=HEADS_WIDTH),
    (RELU, "prefix"): peft.PrefixTuningConfig(**PROMPT, token_dim=HEADS_WIDTH, num_layers=2),
    (RELU, "prefix_projected"): peft.PrefixTuningConfig(
        **PROMPT, token_dim=HEADS_WIDTH, prefix_projection=True, encoder_hidden_size=8
    ),
    (GATED, "ia3"): peft.IA3Config(**TASK),
    (RELU, "ia3"): peft.IA3Config(**TASK),
    # As PEFT does for mT5: the input of wo is scaled at wi_1; and queries and outputs of the decoder.
    (GATED, "ia3_elsewhere"): peft.IA3Config(
        **TASK,
        target_modules=r"encoder.*\.(k|wi_1)|decoder.*SelfAttention\.(q|k|o)|decoder.*\.wo",
        feedforward_modules=r".*\.(o|wo)",
    ),
    (GATED, "lora"): peft.LoraConfig(**TASK, r=2, lora_alpha=6),
    (RELU, "lora_everywhere"): peft.LoraConfig(
        **TASK,
        r=2,
        target_modules="all-linear",
        rank_pattern={"wo": 1},
        alpha_pattern={"EncDecAttention.v": 3, "wo": 5},
        use_rslora=True,
    ),
    (GATED, "lora_patterns"): peft.LoraConfig(
        **TASK,
        r=2,
        target_modules=["q", "v", "wo"],
        rank_pattern={r"encoder\.block\.[12]\..*\.q": 1, "(v|wo)": 3},
        alpha_pattern={r".*decoder.*\.(q|v)": 5, r"block\.\d\.layer\.1\.\w+\.wo": 7, "q": 2},
        modules_to_save=["lm_head", "final_layer_norm", "wi_0", "relative_attention_bias"],
    ),
}  # fmt: skip


def adapt(model: transformers.PreTrainedModel, config: peft.PeftConfig) -> peft.PeftModel:
    """Adds an adapter with random weights that do not depend on other adapters."""
    torch.manual_seed(make_goldens.SEED)
    tuned = peft.get_peft_model(model, config)
    for name, weight in tuned.named_parameters():
        if ".ia3_l." in name:
            weight.copy_(1 + 0.5 * torch.randn_like(weight))
        elif ".lora_" in name:
            weight.copy_(0.3 * torch.randn_like(weight))
        elif ".modules_to_save." in name:
            weight.mul_(1 + 0.3 * torch.randn_like(weight))
        elif ".transform." in name:
            weight.copy_(torch.randn_like(weight))
    return tuned


def golden(name: str, config: peft.PeftConfig, batch: dict) -> dict:
    """Returns the bytes of the adapter's files, and its logits."""

    def base() -> transformers.PreTrainedModel:
        rng = np.random.default_rng(make_goldens.SEED)
        return make_goldens.build(rng, **make_goldens.VARIANTS[name])

    with tempfile.TemporaryDirectory() as folder:
        adapt(base(), config).save_pretrained(folder)
        files = [
            pathlib.Path(folder) / f"adapter_{x}" for x in ("config.json", "model.safetensors")
        ]
        contents = [np.frombuffer(file.read_bytes(), np.uint8) for file in files]
        arrays = dict(zip(("config", "weights"), contents, strict=True))
        loaded = peft.PeftModel.from_pretrained(base(), folder).eval()
        arrays["logits"] = loaded(**batch).logits.numpy()
    return arrays


def main(folder: pathlib.Path) -> None:
    """Writes the file to `folder`."""
    torch.set_grad_enabled(False)
    rng = np.random.default_rng(make_goldens.SEED)
    inputs, targets = (make_goldens.ragged(rng, lengths) for lengths in (LENGTHS, TARGET_LENGTHS))
    batch = make_goldens.to_batch(inputs, targets)
    versions = make_goldens.versions(torch, transformers, peft, np)
    arrays = {"inputs": inputs, "targets": targets, "versions": versions}
    for (model, adapter), config in ADAPTERS.items():
        parts = golden(model, config, batch)
        arrays |= {f"{model}/{adapter}/{part}": array for part, array in parts.items()}
    np.savez_compressed(folder / "peft_adapters.npz", **arrays)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

"""Runs Hugging Face PEFT for scripts/peft_round_trip.py, without imports of this package.

The argument is JSON: `action` ("use" an adapter, "tune" and save one, or "plain": a model without
adapter), `base`, `path` (folder of the adapter or the plain model; for "tune" its name is the
method), `folder` (with batch.npz and train.npz), `output`, `steps`, `prediction_length` and
`prompt_length`.
"""

import json
import pathlib
import sys

import numpy as np
import peft
import torch
import transformers

BATCH, EOS = 32, 1
TASK = {"task_type": "SEQ_2_SEQ_LM"}
# Learning rates of Adam for a few hundred steps.
RATES = {
    "PROMPT_TUNING": 0.1,
    "P_TUNING": 0.003,
    "PREFIX_TUNING": 0.03,
    "IA3": 0.02,
    "LORA": 0.003,
}


def main(request: dict) -> None:
    """Writes `logits`, the logits in float64 (`exact_logits`) and `predictions`."""
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    action, path = request["action"], request["path"]
    base = load(path if action == "plain" else request["base"])
    if action == "tune":
        tune(base, pathlib.Path(path), request)
        base = load(request["base"])
    model = base if action == "plain" else peft.PeftModel.from_pretrained(base, path)
    model.eval()
    batch = read(request, "batch")
    decoder = {"decoder_input_ids": shifted(batch.pop("labels"))}
    with torch.no_grad():
        logits = model(**batch, **decoder).logits.numpy()
        length = request["prediction_length"]
        generated = model.generate(**batch, max_new_tokens=length, do_sample=False)[:, 1:].numpy()
        exact_logits = model.double()(**batch, **decoder).logits.numpy()
    predictions = np.zeros((len(generated), length), np.int32)
    predictions[:, : generated.shape[1]] = generated
    outputs = {"logits": logits, "exact_logits": exact_logits, "predictions": predictions}
    np.savez(request["output"], **outputs)


def load(path: str) -> transformers.PreTrainedModel:
    """Loads a T5 in float32."""
    return transformers.T5ForConditionalGeneration.from_pretrained(path, dtype=torch.float32)


def read(request: dict, name: str) -> dict[str, torch.Tensor]:
    """Reads inputs, their mask, and targets."""
    with np.load(pathlib.Path(request["folder"]) / f"{name}.npz") as file:
        inputs, targets = (torch.from_numpy(file[part]).long() for part in ("inputs", "targets"))
    return {"input_ids": inputs, "attention_mask": (inputs > 0).long(), "labels": targets}


def shifted(targets: torch.Tensor) -> torch.Tensor:
    """Returns the inputs of the decoder."""
    return torch.nn.functional.pad(targets, (1, 0))[:, :-1]


def tune(base: transformers.PreTrainedModel, path: pathlib.Path, request: dict) -> None:
    """Tunes an adapter and saves it to `path`, whose name is the method."""
    length = {**TASK, "num_virtual_tokens": request["prompt_length"]}
    configs = {
        "PROMPT_TUNING": peft.PromptTuningConfig(**length, prompt_tuning_init="SAMPLE_VOCAB"),
        "P_TUNING": peft.PromptEncoderConfig(**length, encoder_hidden_size=64),
        "PREFIX_TUNING": peft.PrefixTuningConfig(**length),
        "IA3": peft.IA3Config(**TASK),
        "LORA": peft.LoraConfig(**TASK, r=4, lora_alpha=8, target_modules="all-linear"),
    }
    base.config.name_or_path = request["base"]
    model = peft.get_peft_model(base, configs[path.name]).train()
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=RATES[path.name])
    data = read(request, "train")
    data["labels"][data["labels"] == 0] = -100
    losses = []
    for _ in range(request["steps"]):
        rows = torch.randint(len(data["labels"]), (BATCH,))
        loss = model(**{name: part[rows] for name, part in data.items()}).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    tail = sum(losses[-20:]) / len(losses[-20:])
    print(f"{path.name}: loss {losses[0]:.3f} -> {tail:.3f}", file=sys.stderr)
    model.save_pretrained(path)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

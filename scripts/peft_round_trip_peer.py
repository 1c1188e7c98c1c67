"""The side of scripts/peft_round_trip.py that runs Hugging Face PEFT; nothing of this package is imported.

Its argument is JSON: `what` ("use" an adapter, "tune" and save one, or "plain": a model without), `base`,
`path` (of the adapter or the plain model; to be tuned, the folder's name is the method), `folder` (of
batch.npz and train.npz), `output`, `steps`, `answer_length`, `prompt_length`.
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
# Steps of Adam that learn something in a few hundred.
RATES = {
    "PROMPT_TUNING": 0.1,
    "P_TUNING": 0.003,
    "PREFIX_TUNING": 0.03,
    "IA3": 0.02,
    "LORA": 0.003,
}


def main(request: dict) -> None:
    """Loads or tunes, writes `logits`, the same in float64 (`exact`) and `answers`."""
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    what, path = request["what"], request["path"]
    base = load(path if what == "plain" else request["base"])
    if what == "tune":
        tune(base, pathlib.Path(path), request)
        base = load(request["base"])
    model = base if what == "plain" else peft.PeftModel.from_pretrained(base, path)
    model.eval()
    batch = read(request, "batch")
    decoder = {"decoder_input_ids": shifted(batch.pop("labels"))}
    with torch.no_grad():
        logits = model(**batch, **decoder).logits.numpy()
        length = request["answer_length"]
        found = model.generate(**batch, max_new_tokens=length, do_sample=False)[:, 1:].numpy()
        exact = model.double()(**batch, **decoder).logits.numpy()
    answers = np.zeros((len(found), length), np.int32)
    answers[:, : found.shape[1]] = found
    np.savez(request["output"], logits=logits, exact=exact, answers=answers)


def load(path: str) -> transformers.PreTrainedModel:
    """A T5 in float32."""
    return transformers.T5ForConditionalGeneration.from_pretrained(path, dtype=torch.float32)


def read(request: dict, name: str) -> dict[str, torch.Tensor]:
    """Inputs, their mask and the targets of a file."""
    with np.load(pathlib.Path(request["folder"]) / f"{name}.npz") as file:
        inputs, targets = (torch.from_numpy(file[part]).long() for part in ("inputs", "targets"))
    return {"input_ids": inputs, "attention_mask": (inputs > 0).long(), "labels": targets}


def shifted(targets: torch.Tensor) -> torch.Tensor:
    """What the decoder reads."""
    return torch.nn.functional.pad(targets, (1, 0))[:, :-1]


def tune(base: transformers.PreTrainedModel, path: pathlib.Path, request: dict) -> None:
    """Tunes an adapter of the method that the folder is named by, and saves it there."""
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
    tuned = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam(tuned, lr=RATES[path.name])
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

"""Worker of scripts/bench.py for Hugging Face PEFT (see bench_workers.py).

It does the work of bench_prompt_tuning.py as a user of PEFT would: all cores, attention masks,
labels padded with −100, inference mode without training, gradients set to None, and Adafactor of
transformers with the paper's settings. `dtype` is "float32", "bfloat16" (weights) or "autocast"
(bfloat16 products of float32 weights).
"""

import contextlib
import json
import os
import sys

import bench_sizes
import bench_text
import bench_workers

try:
    import peft
    import torch
    import transformers
except ImportError as error:
    print(json.dumps({"missing": f"PEFT is not available: {error}"}))
    sys.exit()

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


def wait() -> None:
    """Waits for the device."""
    if CUDA:
        torch.cuda.synchronize()


def make_model(size: str, dtype: str, dropout: float, prompt_length: int):
    """Makes a T5 1.1 with random weights and a prompt, on the device."""
    sizes = bench_sizes.SIZES[size]
    config = transformers.T5Config(
        vocab_size=sizes.vocab_size,
        d_model=sizes.embed_dim,
        num_heads=sizes.num_heads,
        d_kv=sizes.head_dim,
        d_ff=sizes.mlp_dim,
        num_layers=sizes.num_layers,
        feed_forward_proj="gated-gelu",
        dropout_rate=dropout,
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    with DEVICE:
        base = transformers.T5ForConditionalGeneration(config)
        # transformers 5 ties the output layer of every new T5; that of T5 1.1 is separate.
        base.lm_head.weight = torch.nn.Parameter(torch.randn_like(base.lm_head.weight))
    torch.set_default_dtype(torch.float32)
    settings = peft.PromptTuningConfig(
        task_type=peft.TaskType.SEQ_2_SEQ_LM, num_virtual_tokens=prompt_length
    )
    return peft.get_peft_model(base, settings).to(DEVICE)


def precision(dtype: str):
    """Context manager of a forward pass."""
    if dtype == "autocast":
        return torch.autocast(DEVICE.type, torch.bfloat16)
    return contextlib.nullcontext()


class Training:
    """A model in training mode, with its optimizer."""

    def __init__(self, model, dtype: str):
        """Takes a model of `make_model`."""
        self._model, self._dtype = model.train(), dtype
        self.parameters = sum(weight.numel() for weight in model.parameters())
        trainable = [weight for weight in model.parameters() if weight.requires_grad]
        self._optimizer = transformers.Adafactor(
            trainable, lr=0.3, scale_parameter=False, relative_step=False, weight_decay=1e-5
        )

    def run_step(self, batch) -> None:
        """Runs a step."""
        with precision(self._dtype):
            loss = self._model(**batch).loss
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


def train(
    *,
    size,
    batch,
    input_length,
    prompt_length,
    target_length,
    dropout,
    dtype,
    steps,
) -> bench_workers.Prepared:
    """`steps` training steps on a padded batch of full rows."""
    job = Training(make_model(size, dtype, dropout, prompt_length), dtype)
    data = {
        "input_ids": torch.randint(2, 32000, (batch, input_length)),
        "attention_mask": torch.ones((batch, input_length), dtype=torch.long),
        "labels": torch.randint(2, 32000, (batch, target_length)),
    }

    def run() -> None:
        for _ in range(steps):
            job.run_step({name: array.to(DEVICE) for name, array in data.items()})
        wait()

    facts = {"examples": steps * batch, "parameters": job.parameters}
    return bench_workers.Prepared(run, {**facts, "optimizer": "transformers.Adafactor"})


def products(*, size, rows, dtype, times) -> bench_workers.Prepared:
    """The kernels' products of an encoder layer, `times` times."""
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    pairs = [
        (torch.ones((m, k), dtype=kind, device=DEVICE), torch.ones((k, n), dtype=kind, device=DEVICE))
        for m, k, n in bench_sizes.products(bench_sizes.SIZES[size], rows)
    ]  # fmt: skip

    @torch.inference_mode()
    def run() -> None:
        for _ in range(times):
            for a, b in pairs:
                a @ b
        wait()

    flops = times * bench_sizes.products_flops(bench_sizes.SIZES[size], rows)
    return bench_workers.Prepared(run, {"flops": flops})


def make_tokenizer(pieces_file: str):
    """Makes T5's tokenizer from the [token, score] pairs of bench_prompt_tuning.py."""
    with open(pieces_file) as file:
        pairs = [(piece, score) for piece, score in json.load(file)]
    return transformers.T5Tokenizer(vocab=pairs, extra_ids=0)


def file(
    *,
    size,
    path,
    pieces_file,
    examples,
    batch,
    input_length,
    prompt_length,
    target_length,
    dropout,
    dtype,
) -> bench_workers.Prepared:
    """Reads, batches and trains on the rows of a file, padded to the longest of a batch."""
    tokenizer = make_tokenizer(pieces_file)
    job = Training(make_model(size, dtype, dropout, prompt_length), dtype)

    def batches():
        pairs = bench_text.read(path, examples)
        for start in range(0, len(pairs), batch):
            sentences, labels = zip(*pairs[start : start + batch], strict=True)
            data = encode(tokenizer, sentences, input_length)
            targets = encode(tokenizer, labels, target_length)
            masked = targets["attention_mask"] == 0
            yield {**data, "labels": targets["input_ids"].masked_fill(masked, -100)}

    def run() -> None:
        for arrays in batches():
            job.run_step(arrays)
        wait()

    data = list(batches())
    facts = {
        "examples": sum(len(arrays["labels"]) for arrays in data),
        "input_tokens": int(sum(arrays["attention_mask"].sum() for arrays in data)),
        "shapes": sorted({tuple(arrays["input_ids"].shape) for arrays in data}),
        "optimizer": "transformers.Adafactor",
    }
    return bench_workers.Prepared(run, facts)


def encode(tokenizer, texts, length: int):
    """Tokenizes texts and pads them to the longest, on the device."""
    return tokenizer(
        list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt"
    ).to(DEVICE)


def decode(
    *, size, batch, input_length, prompt_length, target_length, dtype, steps
) -> bench_workers.Prepared:
    """Greedy decoding of exactly `target_length` tokens, `steps` times."""
    model = make_model(size, dtype, 0.0, prompt_length).eval()
    ids = torch.randint(2, 32000, (batch, input_length), device=DEVICE)
    mask = torch.ones_like(ids)

    @torch.inference_mode()
    def run() -> None:
        for _ in range(steps):
            with precision(dtype):
                tokens = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=target_length,
                    min_new_tokens=target_length,
                    do_sample=False,
                )
        wait()
        if tokens.shape[1] != target_length + 1:
            raise ValueError("a sequence ended before target_length tokens")

    return bench_workers.Prepared(run, {"tokens": steps * batch * target_length})


def score(
    *, size, path, pieces_file, examples, batch, input_length, prompt_length, target_length, dtype
) -> bench_workers.Prepared:
    """Reads the rows of a file and decodes up to `target_length` tokens for each."""
    tokenizer = make_tokenizer(pieces_file)
    model = make_model(size, dtype, 0.0, prompt_length).eval()

    @torch.inference_mode()
    def run() -> int:
        pairs = bench_text.read(path, examples)
        predictions = []
        for start in range(0, len(pairs), batch):
            data = encode(
                tokenizer, [text for text, _ in pairs[start : start + batch]], input_length
            )
            with precision(dtype):
                tokens = model.generate(**data, max_new_tokens=target_length, do_sample=False)
            predictions += tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return len(predictions)

    return bench_workers.Prepared(run, {"examples": run()})


def load(*, folder, dtype) -> bench_workers.Prepared:
    """Loads a model onto the device."""
    reader, kind = transformers.T5ForConditionalGeneration, getattr(torch, dtype)
    size = 0

    def run() -> None:
        nonlocal size
        model = reader.from_pretrained(f"{folder}/huggingface", dtype=kind).to(DEVICE)
        size = sum(x.numel() * x.element_size() for x in model.parameters())
        wait()

    growth = bench_workers.memory_growth(run)
    return bench_workers.Prepared(run, {"weights_bytes": size, "growth_bytes": growth})


PROGRAMS = {x.__name__: x for x in (train, products, file, decode, score, load)}


def device_peak() -> int | None:
    """Peak memory of the device in bytes; None on a CPU."""
    return torch.cuda.max_memory_allocated() if CUDA else None


if __name__ == "__main__":
    # One thread per core that this process may use.
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    transformers.utils.logging.set_verbosity_error()
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    name = torch.cuda.get_device_name() if CUDA else "cpu"
    hello = {"platform": DEVICE.type, "device": name, "versions": versions}
    hello["threads"] = torch.get_num_threads()
    bench_workers.serve(hello, PROGRAMS, device_peak)

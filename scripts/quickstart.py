"""Tunes, evaluates and uses a prompt on the embedded model.

Runs the commands train, eval (in and out of domain), infer and neighbors, prints each command line,
and writes a table and `summary.json`. A folder with a summary is only shown.
"""

import json
import pathlib
import shlex
import sys

from flax import linen as nn

from prompt_tuning import assets
from prompt_tuning import params as params_lib
from prompt_tuning.checkpoints import atomic, prompt_files
from prompt_tuning.checkpoints.formats import huggingface
from prompt_tuning.cli import main as cli
from prompt_tuning.methods import prompt as prompt_method
from prompt_tuning.models import model

STEPS = 600
PROMPT_LENGTH = 20
MODEL = ["--gin_file=models/t5_mini.gin", "--gin_file=tasks/reviews.gin"]
SENTENCES = (
    "a warm and funny film that i would happily see again",
    "the plot makes no sense and the jokes fall flat",
    "beautifully shot, with a wonderful performance in the lead",
    "i wanted my money back long before the end",
)


def command(verb: str, *arguments: str) -> object:
    """Prints a command line and runs it in this process, to import JAX only once."""
    line = [verb, *MODEL, f"--gin_file=runs/{verb}.gin", *arguments]
    print(f"\n$ prompt-tuning {shlex.join(line)}", flush=True)
    return cli.run(line)


def binding(name: str, value: object) -> str:
    """A --gin flag."""
    return f"--gin.{name}={value!r}"


def main(out: pathlib.Path) -> None:
    """Runs all commands, with their output in `out`."""
    run = out / "train"
    if (out / "summary.json").exists():
        print(f"{out} has the results of an earlier quickstart; to repeat it: rm -r {out}")
        print_table(json.loads((out / "summary.json").read_text()))
        return
    first = huggingface.read_step(assets.path("t5_mini"))
    command(
        "train",
        binding("MODEL_DIR", str(run)),
        binding("TRAIN_STEPS", first + STEPS),
        binding("PROMPT_LENGTH", PROMPT_LENGTH),
        binding("EVAL_PERIOD", 100),
        binding("LOG_PERIOD", 50),
    )
    prompt_file = run / "prompts" / "best.npy"
    prompt = binding("PROMPT_FILE", str(prompt_file))
    scores = {}
    for domain in ("restaurants", "gadgets"):
        file = f"--gin.EVAL_FILE=@{domain}/assets.path()"
        folder = binding("EVAL_OUTPUT_DIR", str(out / domain))
        results = command("eval", prompt, file, folder)
        scores[domain] = next(iter(results.values()))["accuracy"]
    predict(out, prompt)
    command("neighbors", prompt, "--gin.NUM_NEIGHBORS=4")
    summary = summarize(run, prompt_file, scores)
    atomic.write(out / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    print_table(summary)


def predict(out: pathlib.Path, prompt: str) -> None:
    """Classifies SENTENCES, which are in no data set, and prints the predictions."""
    inputs = out / "sentences.jsonl"
    atomic.write(inputs, "".join(json.dumps({"sentence": s}) + "\n" for s in SENTENCES).encode())
    paths = command(
        "infer",
        prompt,
        binding("INFER_FILE", str(inputs)),
        binding("INFER_OUTPUT_DIR", str(out / "answers")),
    )
    for line in pathlib.Path(paths[0]).read_text().splitlines():
        row = json.loads(line)
        print(f"  {row['prediction']:10} {row['inputs']['inputs_pretokenized']}")


def read_lines(path: pathlib.Path) -> list[dict]:
    """Reads a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def summarize(run: pathlib.Path, prompt_file: pathlib.Path, scores: dict[str, float]) -> dict:
    """Returns the figures of summary.json; accuracies are percentages."""
    evaluations = read_lines(next((run / "inference_eval").glob("*-metrics.jsonl")))
    predictions = read_lines(next((run / "inference_eval").glob("*-[0-9]*.jsonl")))
    targets = [prediction["target"] for prediction in predictions]
    (metrics,) = prompt_files.read_card(prompt_file)["metrics"].values()
    config = huggingface.read_config(assets.path("t5_mini"))
    abstract = model.EncoderDecoderModel(
        config, prompt_method.Prompt(PROMPT_LENGTH)
    ).abstract_params()
    return {
        "validation_accuracy": {
            "majority": 100 * max(map(targets.count, set(targets))) / len(targets),
            "untuned_prompt": evaluations[0]["accuracy"],
            "tuned_prompt": metrics["accuracy"],
        },
        "out_of_domain_accuracy": scores,
        "trainable_params": int(prompt_files.load(prompt_file).size),
        "total_params": params_lib.count(nn.unbox(abstract)),
        "prompt_file": str(prompt_file),
        "prompt_file_bytes": prompt_file.stat().st_size,
        # All steps, without evaluations and compilation.
        "train_seconds": round(
            sum(line["timing/seconds"] for line in read_lines(run / "train" / "metrics.jsonl")), 1
        ),
        "steps": STEPS,
    }


def print_table(summary: dict) -> None:
    """Prints the summary as a table."""
    accuracy = summary["validation_accuracy"]
    share = 100 * summary["trainable_params"] / summary["total_params"]
    rows = [
        ("movie reviews: always the majority class", f"{accuracy['majority']:.1f} %"),
        ("movie reviews: untuned prompt", f"{accuracy['untuned_prompt']:.1f} %"),
        ("movie reviews: tuned prompt", f"{accuracy['tuned_prompt']:.1f} %"),
        *(
            (f"{name}: the same prompt", f"{value:.1f} %")
            for name, value in summary["out_of_domain_accuracy"].items()
        ),
        (
            "trainable parameters",
            f"{summary['trainable_params']:,} of {summary['total_params']:,} ({share:.2f} %)",
        ),
        ("prompt file", f"{summary['prompt_file']}, {summary['prompt_file_bytes']:,} bytes"),
        ("training", f"{summary['steps']} steps, {summary['train_seconds']:.0f} s"),
    ]
    width = max(len(name) for name, _ in rows)
    print("\n" + "\n".join(f"  {name:<{width}}  {value}" for name, value in rows))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

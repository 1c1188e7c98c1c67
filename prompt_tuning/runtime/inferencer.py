"""Answers inputs without targets and writes them as JSON lines, in the input's order."""

import json
import logging

from etils import epath

from prompt_tuning import partitioning
from prompt_tuning.data import pipeline, vocabularies
from prompt_tuning.models import model as model_lib
from prompt_tuning.prompts import initializers
from prompt_tuning.runtime import evaluator, reporting, state


def infer(
    *,
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.SentencePiece,
    checkpoint: str,
    prompt_initializer: initializers.Initializer,
    dataset: pipeline.DatasetConfig,
    output_dir: str,
    seed: int = 0,
    num_partitions: int = 1,
    config_text: str = "",
) -> list[str]:
    """`prompt-tuning infer`: writes `<task>-predict.jsonl` for each task with the split.

    A line is {"inputs", "prediction", "score"}; with several decodes also
    "predictions" and "scores". A file that was begun is gone on with; one that is
    complete is left alone.

    Returns:
      The paths of the files.
    """
    partitioning.check_batch_size(dataset.batch_size, partitioning.make_mesh(num_partitions))
    tasks = pipeline.evaluation_tasks(dataset, vocabulary)
    loaded = state.load_model(
        model,
        vocabulary,
        checkpoint=checkpoint,
        prompt_initializer=prompt_initializer,
        num_partitions=num_partitions,
    )
    reporting.start_folder(output_dir, config_text, "INFER_OUTPUT_DIR")
    answerer = evaluator.Answerer(loaded, seed)
    paths = []
    for task in tasks:
        path = epath.Path(output_dir) / f"{task.name}-predict.jsonl"
        if path.exists():
            logging.info("%s is complete; delete it to answer again", path)
        else:
            _answer(answerer, loaded, task, dataset.batch_size, path)
        paths.append(str(path))
    return paths


def _answer(
    answerer: evaluator.Answerer,
    loaded: state.LoadedModel,
    task: pipeline.EvaluationTask,
    batch_size: int,
    path: epath.Path,
) -> None:
    """Appends batch by batch to a partial file, and renames it when it is whole."""
    partial = path.with_name(f"{path.name}.partial")
    lines = partial.read_text().split("\n")[:-1] if partial.exists() else []
    # Whole batches only: a batch's randomness belongs to its number.
    first_batch = len(lines) // batch_size
    lines = lines[: first_batch * batch_size]
    reporting.write_text(partial, "".join(f"{line}\n" for line in lines))
    total = len(task.examples)
    with partial.open("a") as out, reporting.progress(total, len(lines), "rows") as bar:
        for i, batch in enumerate(task.batches(batch_size, loaded.soft_ids)):
            if i < first_batch:
                continue
            tokens, scores = answerer.predict(loaded.params, batch, task.lengths.targets, i)
            examples = task.examples[i * batch_size : (i + 1) * batch_size]
            for example, ids, score in zip(examples, tokens, scores, strict=False):
                out.write(json.dumps(_line(loaded, example, ids, score)) + "\n")
            out.flush()
            bar.advance(0, len(examples))
    partial.replace(path)
    logging.info("%d answers: %s", total, path)


def _line(loaded: state.LoadedModel, example, ids, scores) -> dict:
    texts = [loaded.vocabulary.decode(decode) for decode in ids]
    line = {
        "inputs": pipeline.text_of(example, "inputs"),
        "prediction": texts[0],
        "score": round(float(scores[0]), 4),
    }
    if len(texts) > 1:
        line |= {"predictions": texts, "scores": [round(float(s), 4) for s in scores]}
    return line

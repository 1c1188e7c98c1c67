"""Answers inputs without targets and writes them as JSON lines, in the input's order."""

import json
import logging
from collections.abc import Sequence

from etils import epath

from prompt_tuning import partitioning
from prompt_tuning.data import evaluation_task, pipeline, vocabularies
from prompt_tuning.models import model as model_lib
from prompt_tuning.runtime import evaluator, reporting, state


def infer(
    *,
    model: model_lib.EncoderDecoderModel,
    vocabulary: vocabularies.SentencePiece,
    checkpoint: str,
    prompt_initializer: state.Start,
    dataset: pipeline.DatasetConfig,
    output_dir: str,
    seed: int = 0,
    num_partitions: int = 1,
    config_text: str = "",
) -> list[str]:
    """`prompt-tuning infer`: writes `<task>-predict.jsonl` for each task with the split.

    A line is {"inputs", "prediction", "score"}; with several decodes also
    "predictions" and "scores". A file that was begun is gone on with; one that is
    complete is left alone; one of other settings is an error.

    Returns:
      The paths of the files.
    """
    partitioning.check_batch_size(dataset.batch_size, partitioning.make_mesh(num_partitions))
    tasks = pipeline.evaluation_tasks(dataset, vocabulary)
    folder = epath.Path(output_dir)
    paths = [folder / f"{task.name}-predict.jsonl" for task in tasks]
    _check_settings(folder, paths, config_text)
    loaded = state.load_model(
        model,
        vocabulary,
        checkpoint=checkpoint,
        prompt_initializer=prompt_initializer,
        num_partitions=num_partitions,
    )
    reporting.start_folder(output_dir, config_text, "INFER_OUTPUT_DIR")
    answerer = evaluator.Answerer(loaded, seed)
    for task, path in zip(tasks, paths, strict=True):
        if path.exists():
            logging.info("%s is complete; delete it to answer again", path)
        else:
            _answer(answerer, loaded, task, dataset.batch_size, path)
    return [str(path) for path in paths]


def _check_settings(folder: epath.Path, paths: Sequence[epath.Path], config_text: str) -> None:
    """Answers of two prompts, or of two models, must not get into one file."""
    config = folder / "config.gin"
    if not config.exists() or config.read_text() == config_text:
        return
    for path in paths:
        if path.exists() or _partial(path).exists():
            raise ValueError(
                f"{path} has answers of other settings, those of {config}; delete it, or set "
                "another INFER_OUTPUT_DIR"
            )


def _partial(path: epath.Path) -> epath.Path:
    return path.with_name(f"{path.name}.partial")


def _answer(
    answerer: evaluator.Answerer,
    loaded: state.LoadedModel,
    task: evaluation_task.EvaluationTask,
    batch_size: int,
    path: epath.Path,
) -> None:
    """Appends to a partial file what is answered, in order; renames it when it is whole."""
    partial = _partial(path)
    lines = partial.read_text().split("\n")[:-1] if partial.exists() else []
    # Whole windows only: a batch's randomness belongs to its number.
    first_batch = len(lines) // (evaluation_task.WINDOW * batch_size) * evaluation_task.WINDOW
    written, total = first_batch * batch_size, len(task.examples)
    reporting.write_text(partial, "".join(f"{line}\n" for line in lines[:written]))
    answers: dict[int, str] = {}  # whose turn has not come
    with partial.open("a") as out, reporting.progress(total, written, "rows") as bar:
        for i, (which, batch) in enumerate(task.batches(batch_size, loaded.soft_tokens)):
            if i < first_batch:
                continue
            tokens, scores = answerer.predict(loaded.params, batch, task.lengths.targets, i)
            for example, ids, score in zip(which.tolist(), tokens, scores, strict=False):
                answers[example] = json.dumps(_line(task, task.examples[example], ids, score))
            while written in answers:
                out.write(answers.pop(written) + "\n")
                written += 1
            out.flush()
            bar.advance(0, len(which))
    partial.replace(path)
    logging.info("%d answers: %s", total, path)


def _line(task: evaluation_task.EvaluationTask, example, ids, scores) -> dict:
    texts = [task.vocabulary.decode(decode) for decode in ids]
    line = {
        "inputs": task.text(example, "inputs"),
        "prediction": texts[0],
        "score": round(float(scores[0]), 4),
    }
    if len(texts) > 1:
        line |= {"predictions": texts, "scores": [round(float(s), 4) for s in scores]}
    return line

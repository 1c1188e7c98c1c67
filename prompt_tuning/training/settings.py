"""The settings that a run or an output was made with, to be compared before it is continued.

A value is compared as gin or Python has it, and what it names (a data file, a prompt, the weights)
by content: a file that was moved is the same, one that was edited in its place is another.
"""

import ast
import dataclasses
import json
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etils import epath

import prompt_tuning
from prompt_tuning.checkpoints import atomic, train_state
from prompt_tuning.data import evaluation_task, pipeline, sources, vocabularies
from prompt_tuning.data.files import fingerprints
from prompt_tuning.data.tokenizers import tokenizer_folder
from prompt_tuning.methods import initializers
from prompt_tuning.models import model as model_lib

# Settings of a run that may change at any time: how long it trains, what it logs and keeps, and how
# the computation is divided. The rest is what it trains, and what its evaluations mean.
FREE = (
    *("ALLOW_CHANGED_SETTINGS", "EVAL_PERIOD", "EVAL_STEPS", "JSON_WRITE_N_RESULTS", "KEEP"),
    *("LOG_PERIOD", "MODEL_DIR", "NAN_TOLERANCE", "NUM_MICROBATCHES", "NUM_PARTITIONS"),
    *("REMAT_POLICY", "TRAIN_STEPS", "TRAIN_STEPS_RELATIVE"),
)
TASK = "MIXTURE_OR_TASK_NAME"
CHECKPOINT = "INITIAL_CHECKPOINT_PATH"
NOT_SET = "not set"
# Macros that stand for arguments which gin files set otherwise.
MACROS = {"trainer.train.train_dataset": "TRAIN_FILE", "trainer.train.eval_dataset": "EVAL_FILE"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a result depends on.

    Attributes:
      values: {setting: value}, of JSON.
      contents: {setting: digest of what its value names}.
      version: of the package that recorded them.
      macros: {argument that gin sets: the macro that it is set to}.
    """

    values: Mapping[str, Any]
    contents: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    version: str = prompt_tuning.__version__
    macros: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name in ("values", "contents"):  # as a file gives them back
            text = json.dumps(getattr(self, name), default=_plain)
            object.__setattr__(self, name, json.loads(text))

    def with_values(self, **values: Any) -> "Settings":
        """The same with other values of some settings."""
        return dataclasses.replace(self, values={**self.values, **values})

    def with_contents(self, contents: Mapping[str, str | None]) -> "Settings":
        """The same with more contents."""
        return dataclasses.replace(self, contents={**self.contents, **contents})

    def with_tasks(
        self, digests: Mapping[str, str], tasks: Sequence[evaluation_task.EvaluationTask]
    ) -> "Settings":
        """The same with the identity of registered tasks: {task: digest}, and the examples of some."""
        evaluated = {f"evaluated {t.name}": fingerprints.of_examples(t.examples) for t in tasks}
        return self.with_contents({TASK: fingerprints.of_arrays({**digests, **evaluated})})

    def with_labels(self, labels: Mapping[str | None, Sequence[str]] | None) -> "Settings":
        """The same with the labels in prompts' cards, which predictions are restored to."""
        of_card = {name or "": sorted(each) for name, each in (labels or {}).items() if each}
        return self.with_values(**{"labels of PROMPT_FILE": of_card.get("", of_card)})

    def with_checkpoint(self, path: str | None, digest: str) -> "Settings":
        """The same with the identity of the base model."""
        return self.with_values(**{CHECKPOINT: path}).with_contents({CHECKPOINT: digest})


def parse(config_text: str, free: Collection[str]) -> dict[str, Any]:
    """The bindings of gin's text, {name: value}, a reference as its text.

    Left out are `free` ones, those that only pass a macro on, and names of packaged files, whose
    content is compared.
    """
    values: dict[str, Any] = {}
    for name, text in re.findall(r"^([\w./]+) = (.*(?:\n {4}.*)*)", config_text, re.MULTILINE):
        text = re.sub(r"\s*\\?\n\s*", " ", text).strip()
        if name in free or re.fullmatch(r"%[\w./]+", text) or name.endswith("assets.path.name"):
            continue
        try:
            values[name] = ast.literal_eval(text)
            json.dumps(values[name], default=_plain)
        except (ValueError, SyntaxError, TypeError):  # a reference, or what JSON does not have
            values[name] = text
    return values


def parse_macros(config_text: str) -> dict[str, str]:
    """{argument: macro} of the arguments that gin's text sets to a macro."""
    lines = re.finditer(r"^([\w/]+\.[\w.]+) =(?: \\\n)? +%(\w+)$", config_text, re.MULTILINE)
    return {line[1]: line[2] for line in lines}


def data_files(*datasets: pipeline.DatasetConfig | None) -> dict[str, list[str]]:
    """{setting: the paths of the files that it names and these data sets read}."""
    files: dict[str, list[str]] = {}
    for dataset in datasets:
        if isinstance(getattr(dataset, "source", None), sources.TaskSource | sources.TextSource):
            files |= dataset.source.read_files(dataset.split)
    return files


def read(
    config_text: str,
    free: Collection[str],
    files: Mapping[str, Sequence[str]],
    vocabulary: vocabularies.Vocabulary,
    initializer: Any,
    model: model_lib.EncoderDecoderModel,
) -> Settings:
    """The settings of a command: gin's bindings, and the content of what they name.

    Args:
      config_text: gin's text.
      free: settings that may change, beside those of data files that are not read.
      files: see `data_files`.
      vocabulary: of the model.
      initializer: PROMPT_INITIALIZER, of which the arrays are compared.
      model: whose prompt has names and a position.
    """
    contents = {setting: fingerprints.of_files(paths) for setting, paths in files.items()}
    if vocabulary.path is not None:
        contents["VOCABULARY_FILE"] = fingerprints.of_files(_tokenizer_files(vocabulary.path))
    contents |= prompt_contents(initializer, model)
    unread = {*sources.SPLIT_SETTINGS.values(), "TEXT_FILES"} - files.keys()
    # Of TASK_DATA_DIR the examples that are read from it are compared.
    values = parse(config_text, {*free, *unread, "TASK_DATA_DIR"})
    return Settings(values, contents, macros=parse_macros(config_text))


def _tokenizer_files(path: str) -> list[epath.Path]:
    """The files of a vocabulary: itself, or those of a tokenizer's folder."""
    file = epath.Path(path)
    if not file.is_dir():
        return [file]
    return [file / name for name in tokenizer_folder.FILES if (file / name).exists()]


def of_command(config_text: str, free: Collection[str]) -> Settings:
    """The settings of a command that is not run: gin's bindings, and the content of local paths."""
    values, contents = parse(config_text, free), {}
    for name, value in values.items():
        paths = [value] if isinstance(value, str) else value
        if not isinstance(paths, list | tuple) or not all(isinstance(x, str) and x for x in paths):
            continue
        if isinstance(value, str) and os.path.isdir(value):
            contents[name] = fingerprints.of_folder(value)
        elif paths and all(os.path.isfile(path) for path in paths):
            contents[name] = fingerprints.of_files(paths)
    return Settings(values, contents, macros=parse_macros(config_text))


def prompt_contents(
    initializer: Any, model: model_lib.EncoderDecoderModel
) -> dict[str, str | None]:
    """{setting: digest} of the arrays that an initializer has from a file; {} where it has none."""
    if isinstance(initializer, initializers.FromArray):
        # Which prompt an example gets, and its position, are the file's too.
        soft = model.method.soft_tokens
        card = repr([soft.names, soft.place])
        arrays = {"prompt": initializer.array, "card": card}
        return {initializer.setting: fingerprints.of_arrays(arrays)}
    if isinstance(initializer, initializers.FromLeaves):
        return {"PROMPT_FILE": fingerprints.of_arrays(initializer.leaves)}
    if isinstance(initializer, initializers.OfTable):
        return {"EMBEDDING_FILE": fingerprints.of_arrays({"table": initializer.table})}
    return {}


def differences(kept: Settings, now: Settings) -> list[str]:
    """A line for each setting that differs: old and new value.

    Of settings that only one of two versions of the package knows nothing is said.
    """
    lines, unknown = [], object()
    for name in sorted({*kept.values, *now.values, *kept.contents, *now.contents}):
        old, new = (
            each.values.get(name, each.values.get(each.macros.get(name, ""), unknown))
            for each in (kept, now)
        )
        if kept.version != now.version and unknown in (old, new):
            continue
        shown = f"{_shown_name(name, kept, now)}: {_shown(old, unknown)} -> {_shown(new, unknown)}"
        digests = kept.contents.get(name), now.contents.get(name)
        if None not in digests:
            if digests[0] != digests[1]:
                lines.append(f"{shown} (content {digests[0][-8:]} -> {digests[1][-8:]})")
        elif old != new and (
            digests == (None, None) or old in (None, unknown) or new in (None, unknown)
        ):
            lines.append(shown)
    return lines


def _shown_name(name: str, kept: Settings, now: Settings) -> str:
    """An argument with the macro that users set it by."""
    macros = MACROS | kept.macros | now.macros
    macro = macros.get(name) or macros.get(name.rpartition("/")[2])
    return f"{macro} ({name})" if macro else name


def _shown(value: Any, unknown: object) -> str:
    text = NOT_SET if value is unknown else value if _is_reference(value) else repr(value)
    return text if len(text) <= 100 else f"{text[:97]}…"


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("@")


def _plain(value: Any) -> Any:
    """What JSON has in place of a numpy number, a set or a path."""
    return value.item() if hasattr(value, "item") else str(value)


def write(path: epath.PathLike, settings: Settings, **others: Any) -> None:
    """Writes settings, and `others`, as a JSON object."""
    text = json.dumps({"settings": dataclasses.asdict(settings), **others}, indent=1)
    atomic.write(path, f"{text}\n".encode())


def read_file(path: epath.PathLike) -> dict[str, Any]:
    """What `write` wrote, with Settings; {} where there is no such file, or not one of these."""
    path = epath.Path(path)
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        return {**content, "settings": from_json(content["settings"])}
    except (ValueError, TypeError, KeyError):
        return {}


def from_json(content: Mapping[str, Any] | None) -> Settings | None:
    """What `dataclasses.asdict` of Settings became in a file; None of none."""
    return None if content is None else Settings(**content)


def check_state(
    model_dir: epath.PathLike,
    step: int,
    kept: Mapping[str, Any] | None,
    now: Settings,
    *,
    allow_changed: bool,
) -> bool:
    """Whether a run's settings differ from those that its state at `step` was saved with.

    Raises ValueError where they do and `allow_changed` is False; a state of a version that
    recorded none is taken with a warning.
    """
    if kept is None:
        logging.warning(
            "%s was started by a version of this package that did not record settings: settings "
            "and base model are not compared now, and are recorded from now on.", model_dir,
        )  # fmt: skip
        return False
    lines = "\n  ".join(differences(from_json(kept), now))
    if not lines:
        return False
    if not allow_changed:
        raise ValueError(
            f"MODEL_DIR {model_dir} holds a run at step {step} with other settings (old -> new):\n  {lines}\n"
            f"Expected the settings of that run. Set another MODEL_DIR for a new run, or "
            "ALLOW_CHANGED_SETTINGS=True to continue this one with the new settings."
        )
    logging.warning(
        "MODEL_DIR %s holds a run at step %d with other settings (old -> new):\n  %s\nSteps after %d use the new "
        "settings, and the best prompt is chosen among evaluations with them.",
        model_dir, step, lines, step,
    )  # fmt: skip
    return True


def check_folder(model_dir: epath.PathLike, now: Settings) -> None:
    """`check_state` of the last state in a folder, if there is one, before weights are read."""
    for step in reversed(train_state.steps(model_dir)):
        try:
            kept = train_state.read_metadata(model_dir, step).get("settings")
        except train_state.DamagedError:
            continue
        if kept is not None:
            check_state(model_dir, step, kept, now, allow_changed=False)
        return

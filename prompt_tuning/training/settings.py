"""The settings of a run or an output, which are compared before it is continued.

Files that a setting names (data, prompts, weights) are compared by content, so a file may move but
not change. Other values are compared as gin or Python parses them.
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

# Settings that may change between sessions of a run, because they do not change its result.
FREE = (
    *("ALLOW_CHANGED_SETTINGS", "EVAL_PERIOD", "EVAL_STEPS", "JSON_WRITE_N_RESULTS", "KEEP"),
    *("LOG_PERIOD", "MODEL_DIR", "NAN_TOLERANCE", "NUM_MICROBATCHES", "NUM_PARTITIONS"),
    *("REMAT_POLICY", "TRAIN_STEPS", "TRAIN_STEPS_RELATIVE"),
)
TASK = "MIXTURE_OR_TASK_NAME"
CHECKPOINT = "INITIAL_CHECKPOINT_PATH"
NOT_SET = "not set"
# Macros of arguments that gin files do not set by a plain reference.
MACROS = {"trainer.train.train_dataset": "TRAIN_FILE", "trainer.train.eval_dataset": "EVAL_FILE"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that a result depends on.

    Attributes:
      values: {setting: value}; values are JSON.
      contents: {setting: digest of the files that it names}.
      version: package version that recorded them.
      macros: {argument: macro that gin sets it to}.
    """

    values: Mapping[str, Any]
    contents: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    version: str = prompt_tuning.__version__
    macros: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name in ("values", "contents"):  # as they are read back from a file
            text = json.dumps(getattr(self, name), default=_plain)
            object.__setattr__(self, name, json.loads(text))

    def with_values(self, **values: Any) -> "Settings":
        """Returns a copy with other values of settings."""
        return dataclasses.replace(self, values={**self.values, **values})

    def with_contents(self, contents: Mapping[str, str | None]) -> "Settings":
        """Returns a copy with more digests of contents."""
        return dataclasses.replace(self, contents={**self.contents, **contents})

    def with_tasks(
        self, digests: Mapping[str, str], tasks: Sequence[evaluation_task.EvaluationTask]
    ) -> "Settings":
        """Returns a copy with {task: digest} of registered tasks and the examples to evaluate."""
        evaluated = {f"evaluated {t.name}": fingerprints.of_examples(t.examples) for t in tasks}
        return self.with_contents({TASK: fingerprints.of_arrays({**digests, **evaluated})})

    def with_labels(self, labels: Mapping[str | None, Sequence[str]] | None) -> "Settings":
        """Returns a copy with the labels from the cards of prompts."""
        of_card = {name or "": sorted(x) for name, x in (labels or {}).items() if x}
        return self.with_values(**{"labels of PROMPT_FILE": of_card.get("", of_card)})

    def with_checkpoint(self, path: str | None, digest: str) -> "Settings":
        """Returns a copy with path and digest of the base model."""
        return self.with_values(**{CHECKPOINT: path}).with_contents({CHECKPOINT: digest})


def parse(config_text: str, free: Collection[str]) -> dict[str, Any]:
    """Parses the bindings of a gin config, {name: value}; references stay text.

    Omits the settings in `free`, bindings to a macro, and names of packaged files, which are
    compared by content.
    """
    values: dict[str, Any] = {}
    for name, text in re.findall(r"^([\w./]+) = (.*(?:\n {4}.*)*)", config_text, re.MULTILINE):
        text = re.sub(r"\s*\\?\n\s*", " ", text).strip()
        if name in free or re.fullmatch(r"%[\w./]+", text) or name.endswith("assets.path.name"):
            continue
        try:
            values[name] = ast.literal_eval(text)
            json.dumps(values[name], default=_plain)
        except (ValueError, SyntaxError, TypeError):  # a reference, or not a JSON value
            values[name] = text
    return values


def parse_macros(config_text: str) -> dict[str, str]:
    """Parses the bindings to macros of a gin config, {argument: macro}."""
    lines = re.finditer(r"^([\w/]+\.[\w.]+) =(?: \\\n)? +%(\w+)$", config_text, re.MULTILINE)
    return {line[1]: line[2] for line in lines}


def data_files(*datasets: pipeline.DatasetConfig | None) -> dict[str, list[str]]:
    """Returns {setting: paths} of the files that the data sets read."""
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
    """Reads the settings of a command: gin bindings, and digests of the files that they name.

    Args:
      config_text: gin config.
      free: settings that may change, besides those of unused data files.
      files: see `data_files`.
      vocabulary: vocabulary of the model.
      initializer: PROMPT_INITIALIZER; its arrays are compared.
      model: model with the names and the position of its prompt.
    """
    contents = {setting: fingerprints.of_files(paths) for setting, paths in files.items()}
    if vocabulary.path is not None:
        contents["VOCABULARY_FILE"] = fingerprints.of_files(_tokenizer_files(vocabulary.path))
    contents |= prompt_contents(initializer, model)
    unread = {*sources.SPLIT_SETTINGS.values(), "TEXT_FILES"} - files.keys()
    # The examples that are read from TASK_DATA_DIR are compared.
    values = parse(config_text, {*free, *unread, "TASK_DATA_DIR"})
    return Settings(values, contents, macros=parse_macros(config_text))


def _tokenizer_files(path: str) -> list[epath.Path]:
    """Returns the files of a vocabulary: one file, or those of a tokenizer folder."""
    file = epath.Path(path)
    if not file.is_dir():
        return [file]
    return [file / name for name in tokenizer_folder.FILES if (file / name).exists()]


def of_command(config_text: str, free: Collection[str]) -> Settings:
    """Returns settings from a gin config alone: bindings, and digests of local paths."""
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
    """Returns {setting: digest} of the arrays of an initializer; {} if it has none."""
    if isinstance(initializer, initializers.FromArray):
        # The file also determines task names and position of its prompts.
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
    """Returns one line per setting that differs: old and new value.

    Ignores settings that only one of two package versions has.
    """
    lines, unknown = [], object()
    for name in sorted({*kept.values, *now.values, *kept.contents, *now.contents}):
        old, new = (
            x.values.get(name, x.values.get(x.macros.get(name, ""), unknown)) for x in (kept, now)
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
    """Formats an argument with the macro that sets it."""
    macros = MACROS | kept.macros | now.macros
    macro = macros.get(name) or macros.get(name.rpartition("/")[2])
    return f"{macro} ({name})" if macro else name


def _shown(value: Any, unknown: object) -> str:
    text = NOT_SET if value is unknown else value if _is_reference(value) else repr(value)
    return text if len(text) <= 100 else f"{text[:97]}…"


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("@")


def _plain(value: Any) -> Any:
    """Converts a numpy number, a set or a path to JSON."""
    return value.item() if hasattr(value, "item") else str(value)


def write(path: epath.PathLike, settings: Settings, **others: Any) -> None:
    """Writes settings and `others` as a JSON object."""
    text = json.dumps({"settings": dataclasses.asdict(settings), **others}, indent=1)
    atomic.write(path, f"{text}\n".encode())


def read_file(path: epath.PathLike) -> dict[str, Any]:
    """Reads a file of `write`; {} if it does not exist or is not one."""
    path = epath.Path(path)
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        return {**content, "settings": from_json(content["settings"])}
    except (ValueError, TypeError, KeyError):
        return {}


def from_json(content: Mapping[str, Any] | None) -> Settings | None:
    """Restores `dataclasses.asdict` of Settings; None for None."""
    return None if content is None else Settings(**content)


def check_state(
    model_dir: epath.PathLike,
    step: int,
    kept: Mapping[str, Any] | None,
    now: Settings,
    *,
    allow_changed: bool,
) -> bool:
    """Returns whether the settings of a run differ from those of its state at `step`.

    Raises ValueError if they do and `allow_changed` is False. Warns about a state without
    settings (of an old version), which is accepted.
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
    """Applies `check_state` to the last readable state in a folder, if any, without weights."""
    for step in reversed(train_state.steps(model_dir)):
        try:
            kept = train_state.read_metadata(model_dir, step).get("settings")
        except train_state.DamagedError:
            continue
        if kept is not None:
            check_state(model_dir, step, kept, now, allow_changed=False)
        return

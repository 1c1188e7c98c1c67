"""Grids of runs: base models, prompts tuned on them, scores on other data; a table and a plot.

A study runs the package's own commands and stores each result, so that an interrupted study resumes
with the first missing run.
"""

import dataclasses
import itertools
import json
import logging
import re
import statistics
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from prompt_tuning.analysis import summaries
from prompt_tuning.training import counts, reporting
from prompt_tuning.training import settings as settings_lib

# Runs a command line, and returns the result of the command.
Command = Callable[[Sequence[str]], Any]
Settings = Mapping[str, Any]
Scores = dict[str, float]
OUTPUTS = ("MODEL_DIR", "EVAL_OUTPUT_DIR", "TASK_DATA_DIR")
LM_ADAPTATION = {"run_files": ("runs/lm_adapt.gin",)}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One line of a study: gin files and settings in addition to the study's.

    Attributes:
      gin_files: files between the task's and the run's.
      run_files: the run's file, and files after it; () to evaluate without training.
      settings: {macro: value} for all commands.
      train_settings: {macro: value} for training only.
      base: name of a base model of the study; None for the model's checkpoint.
      together: whether one command may train all seeds; full fine-tuning does not support this.
      model: gin file of the model; None for the study's.
    """

    gin_files: Sequence[str] = ()
    run_files: Sequence[str] = ("runs/train.gin",)
    settings: Settings = dataclasses.field(default_factory=dict)
    train_settings: Settings = dataclasses.field(default_factory=dict)
    base: str | None = None
    together: bool = True
    model: str | None = None


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of the grid: a variant at a value of the axis."""

    variant: str
    value: Any

    @property
    def name(self) -> str:
        """The path of the point's folder."""
        parts = [self.variant, *([] if self.value is None else [self.value])]
        return "/".join(re.sub(r"[^\w.]+", "_", str(part)) for part in parts)


@dataclasses.dataclass
class Study:
    """A grid of runs.

    Attributes:
      run: runs a command line.
      read_config: returns the gin text of a command line, to compare inputs of stored results.
      folder: STUDY_DIR.
      gin_files: STUDY_FILES, of the model and the task.
      settings: of all commands.
      train_settings: of commands that train on the task.
      base_settings: of commands that train base models.
      bases: {name: variant} whose runs export base models.
      variants: {name: variant} to compare.
      axis: (macro, its values), or None.
      seeds: of each point.
      evaluations: {name: settings of `eval`, such as EVAL_FILE}, besides the validation split.
      members: prompts per seed that are evaluated alone and as an ensemble; 0 for one prompt, which
        `eval` evaluates.
      together: whether one command trains all prompts of a point; False saves memory.
    """

    run: Command
    read_config: Callable[[Sequence[str]], str]
    folder: epath.Path
    gin_files: Sequence[str]
    settings: Settings
    train_settings: Settings
    base_settings: Settings
    bases: Mapping[str, Variant]
    variants: Mapping[str, Variant]
    axis: tuple[str, Sequence[Any]] | None
    seeds: Sequence[int]
    evaluations: Mapping[str, Settings]
    members: int
    together: bool

    def points(self) -> Iterator[Point]:
        """Yields all points, variant by variant."""
        values = self.axis[1] if self.axis else [None]
        for variant, value in itertools.product(self.variants, values):
            yield Point(variant, value)

    def base(self, name: str | None) -> Settings:
        """Returns the settings that select a base model; trains it if it does not exist."""
        if name is None:
            return {}
        base = self.bases[name]
        folder = self.folder / "bases" / name
        settings = {**self.base_settings, **self.base(base.base), **base.settings}
        settings["MODEL_DIR"] = str(folder)
        files = [base.model or self.gin_files[0], *base.gin_files, *base.run_files]
        result = self._run_once(folder, "train", files, settings)
        return {"INITIAL_CHECKPOINT_PATH": result["model"]}

    def rows(self, point: Point) -> Iterator[summaries.Row]:
        """Yields the trainable parameters and the scores of each seed."""
        variant = self.variants[point.variant]
        settings = {**self.settings, **self.base(variant.base), **variant.settings}
        if self.axis:
            settings[self.axis[0]] = point.value
        model, *tasks = self.gin_files
        files = [variant.model or model, *tasks, *variant.gin_files]
        folder = self.folder / "points" / point.name
        for seed, trained, scores in self._scores(folder, files, settings, variant):
            row = {"seed": seed, "trained": trained, "scores": scores}
            yield {**dataclasses.asdict(point), **row}

    def _scores(
        self, folder: epath.Path, files: Sequence[str], settings: Settings, variant: Variant
    ) -> Iterator[tuple[int, int, Scores]]:
        """Yields seed, trainable parameters and scores."""
        if not variant.run_files:  # Without training, seeds make no difference.
            evaluations = {summaries.VALIDATION: {}, **self.evaluations}
            yield self.seeds[0], 0, self._evaluate(folder, files, settings, evaluations)
            return
        size = self.members or 1
        seeds = [seed * size + i for seed in self.seeds for i in range(size)]
        results = self._train(folder, [*files, *variant.run_files], settings, variant, seeds)
        for index, seed in enumerate(self.seeds):
            group = results[index * size :][:size]
            if self.members:
                prompts = [_best_prompt(result) for result in group]
                output_dir = folder / "ensembles" / f"seed_{seed}"
                scores = self._evaluate_ensemble(output_dir, files, settings, prompts)
            else:
                tuned = {**settings, **_eval_settings(group[0])}
                scores = self._evaluate(folder / f"seed_{seed}", files, tuned, self.evaluations)
                scores = {summaries.VALIDATION: group[0]["best"], **scores}
            yield seed, sum(result["trained"] for result in group), scores

    def _train(
        self,
        folder: epath.Path,
        files: Sequence[str],
        settings: Settings,
        variant: Variant,
        seeds: Sequence[int],
    ) -> list[Mapping[str, Any]]:
        """Returns the result of `train` per seed."""
        settings = {**settings, **self.train_settings, **variant.train_settings}
        if self.together and variant.together and len(seeds) > 1:
            settings |= {"RANDOM_SEED": tuple(seeds), "MODEL_DIR": str(folder)}
            results = self._run_once(folder, "train", files, settings)
        else:
            results = []
            for seed in seeds:
                model_dir = folder / f"seed_{seed}"
                settings |= {"RANDOM_SEED": seed, "MODEL_DIR": str(model_dir)}
                results.append(self._run_once(model_dir, "train", files, settings))
        if any(result["best"] is None for result in results):
            raise ValueError(
                f"the run in {folder} has no evaluation, and so no score; expected a task with a "
                "validation split and metrics. Choose such a task in STUDY_FILES or "
                "STUDY_SETTINGS."
            )
        return results

    def _evaluate(
        self,
        folder: epath.Path,
        files: Sequence[str],
        settings: Settings,
        evaluations: Mapping[str, Settings],
    ) -> Scores:
        """Returns the metrics of each evaluation, averaged over its tasks."""
        scores: Scores = {}
        for name, changes in evaluations.items():
            output_dir = folder / "evaluations" / name
            changed = {**settings, **changes, "EVAL_OUTPUT_DIR": str(output_dir)}
            result = self._run_once(output_dir, "eval", [*files, "runs/eval.gin"], changed)
            tasks = [metrics for metrics in result.values() if metrics]
            if not tasks:
                raise ValueError(
                    f"{name!r} of STUDY_EVALUATIONS has no metrics; expected a task with metrics "
                    "and a SPLIT with targets. Change its settings."
                )
            shared = [key for key in tasks[0] if all(key in metrics for metrics in tasks)]
            for key in shared:
                column = name if len(shared) == 1 else f"{name} {key}"
                scores[column] = statistics.mean(metrics[key] for metrics in tasks)
        return scores

    def _evaluate_ensemble(
        self, folder: epath.Path, files: Sequence[str], settings: Settings, prompts: Sequence[str]
    ) -> Scores:
        """Returns the first metric of a task: of the prompts alone and of their ensembles."""
        settings = {**settings, "PROMPT_FILE": list(prompts), "EVAL_OUTPUT_DIR": str(folder)}
        result = self._run_once(folder, "ensemble", [*files, "runs/ensemble.gin"], settings)
        (metrics,) = result.values()
        names = ("average", "best", "majority vote", "mean log-likelihood")
        return {name: next(iter(metrics[name].values())) for name in names if name in metrics}

    def _run_once(
        self, folder: epath.Path, command: str, gin_files: Sequence[str], settings: Settings
    ) -> Any:
        """Returns the stored result of a command; runs the command if there is none."""
        arguments = [command, *(f"--gin_file={file}" for file in gin_files)]
        arguments += [f"--gin.{name}={value!r}" for name, value in settings.items()]
        # Outputs are compared as arguments; TASK_DATA_DIR may contain the study's folder.
        inputs = settings_lib.of_command(self.read_config(arguments), OUTPUTS)
        file = folder / "result.json"
        if file.exists():
            stored = json.loads(file.read_text())
            if stored["arguments"] != arguments:
                raise ValueError(
                    f"{file} was made with other settings of the study; expected the same "
                    f"settings. Delete {folder}, or set another STUDY_DIR."
                )
            _check_inputs(file, stored.get("settings"), inputs)
            return stored["result"]
        logging.info("Study: running prompt-tuning %s", " ".join(arguments))
        result = self.run(arguments)
        settings_lib.write(file, inputs, arguments=arguments, result=result)
        return result


def _check_inputs(
    file: epath.Path, stored: Mapping[str, Any] | None, inputs: settings_lib.Settings
) -> None:
    """Raises ValueError if a result depends on other data, weights or gin files."""
    if stored is None:
        logging.warning("%s has no record of its inputs, which are not compared.", file)
    elif lines := settings_lib.differences(settings_lib.from_json(stored), inputs):
        raise ValueError(
            f"{file} was made from other inputs (old -> new):\n  "
            + "\n  ".join(lines)
            + f"\nExpected the same inputs. Delete {file.parent}, or set another STUDY_DIR."
        )


def _best_prompt(result: Mapping[str, Any]) -> str:
    last = epath.Path(result["prompt_file"])
    return str(last.with_name(f"best{last.suffix}"))


def _eval_settings(result: Mapping[str, Any]) -> Settings:
    """Returns the settings that select the best prompt of a run, or its last model."""
    if "model" in result:
        no_prompt = dict.fromkeys(("PROMPT", "PROMPT_FILE"))
        return {"INITIAL_CHECKPOINT_PATH": result["model"], **no_prompt}
    return {"PROMPT_FILE": _best_prompt(result)}


def study(
    *,
    run: Command,
    output_dir: str,
    gin_files: Sequence[str],
    variants: Mapping[str, Mapping[str, Any]],
    settings: Settings | None = None,
    train_settings: Settings | None = None,
    base_settings: Settings | None = None,
    bases: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({}),
    axis: tuple[str, Sequence[Any]] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    evaluations: Mapping[str, Settings] | None = None,
    members: int = 0,
    together: bool = True,
    difference: tuple[str, str] | None = None,
    title: str = "",
    read_config: Callable[[Sequence[str]], str] = lambda _: "",
    config_text: str = "",
) -> list[summaries.Row]:
    """`prompt-tuning study`: runs the missing runs of a grid, then prints means and deviations.

    Writes config.gin, study.json, study.md and study.png to `output_dir`, and the runs to points/
    and bases/ in it. Arguments are those of `Study`, but `variants` and `bases` have arguments of
    `Variant`; by default, bases are trained by LM adaptation. `difference` names two variants to
    compare per seed.

    Returns:
      One row per point and seed: {"variant", "value", "seed", "trained", "scores": {name: score}},
      where "trained" is the number of trainable parameters.
    """
    bases = {name: {**LM_ADAPTATION, **arguments} for name, arguments in bases.items()}
    grid = Study(
        run=run,
        read_config=read_config,
        folder=epath.Path(output_dir),
        gin_files=gin_files,
        settings=settings or {},
        train_settings=train_settings or {},
        base_settings=base_settings or {},
        bases=_make_variants("STUDY_BASES", bases),
        variants=_make_variants("STUDY_VARIANTS", variants),
        axis=axis,
        seeds=seeds,
        evaluations=evaluations or {},
        members=members,
        together=together,
    )
    _check(grid, difference)
    reporting.start_folder(output_dir, config_text, "STUDY_DIR")
    rows = []
    for point in grid.points():
        rows += grid.rows(point)
        reporting.write_text(grid.folder / "study.json", json.dumps(rows, indent=2) + "\n")
    _summarize(grid, rows, difference, title)
    return rows


def _summarize(
    grid: Study, rows: Sequence[summaries.Row], difference: tuple[str, str] | None, title: str
) -> None:
    """Writes study.md and study.png, and prints the table."""
    summary = summaries.summarise(rows)
    cells = summaries.cells(summary, grid.axis)
    if difference:
        cells += summaries.difference(rows, *difference, grid.axis)
    reporting.write_text(grid.folder / "study.md", summaries.markdown(cells, title))
    summaries.plot(summary, grid.folder / "study.png", title, grid.axis)
    print(reporting.table(cells))


def _make_variants(setting: str, variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Variant]:
    fields = [field.name for field in dataclasses.fields(Variant)]
    for name, arguments in variants.items():
        if unknown := sorted(arguments.keys() - set(fields)):
            raise ValueError(
                f"{name!r} of {setting} has {unknown}; expected names from {fields}. Correct "
                f"{setting}."
            )
    return {name: Variant(**arguments) for name, arguments in variants.items()}


def _check(grid: Study, difference: tuple[str, str] | None) -> None:
    """Raises ValueError for a study that cannot be completed."""
    for setting, value in (("STUDY_VARIANTS", grid.variants), ("STUDY_SEEDS", grid.seeds)):
        if not value:
            raise ValueError(
                f"{setting} is {value!r}; expected at least one element. Set {setting}, or include "
                "a file of studies/."
            )
    for name, variant in {**grid.bases, **grid.variants}.items():
        if variant.base is not None and variant.base not in grid.bases:
            raise ValueError(
                f"{name!r} has the base {variant.base!r}; expected one of STUDY_BASES, "
                f"{list(grid.bases)}. Correct it, or add it to STUDY_BASES."
            )
    if unknown := set(difference or ()) - grid.variants.keys():
        raise ValueError(
            f"STUDY_DIFFERENCE has {sorted(unknown)}; expected names of STUDY_VARIANTS, "
            f"{list(grid.variants)}. Correct STUDY_DIFFERENCE."
        )
    counts.validate_int("STUDY_ENSEMBLE", grid.members, 0)
    if grid.members == 1 or (grid.members and grid.evaluations):
        raise ValueError(
            f"STUDY_ENSEMBLE is {grid.members}, and STUDY_EVALUATIONS is {grid.evaluations}; "
            "expected only one of them, and two or more prompts in an ensemble, which is scored "
            "on the validation split. Remove one of them."
        )

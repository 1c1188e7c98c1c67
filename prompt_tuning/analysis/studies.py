"""Grids of runs: bases, prompts tuned on them, scores on other data; a table and a picture.

A study is made of the package's own commands. What each of them returned is kept beside what it
wrote, so that a study that was stopped goes on with the first that is missing.
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

# A command line -> what the command returns.
Command = Callable[[Sequence[str]], Any]
Settings = Mapping[str, Any]
Scores = dict[str, float]
OUTPUTS = ("MODEL_DIR", "EVAL_OUTPUT_DIR", "TASK_DATA_DIR")
LM_ADAPTATION = {"run_files": ("runs/lm_adapt.gin",)}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One line of a study: what its commands are given beside what all have.

    Attributes:
      gin_files: after the model's and the task's, before the run's.
      run_files: the run, and what comes after it; () trains nothing.
      settings: macros and their values.
      train_settings: of training alone.
      base: the base of the study that it stands on; None for the model's own checkpoint.
      together: its seeds are trained in one command, which weights cannot be.
      model: its gin file of the model; None for the study's.
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
    """A place in the grid: which variant, at which value of the axis."""

    variant: str
    value: Any

    @property
    def name(self) -> str:
        """A folder's name."""
        parts = [self.variant, *([] if self.value is None else [self.value])]
        return "/".join(re.sub(r"[^\w.]+", "_", str(part)) for part in parts)


@dataclasses.dataclass
class Study:
    """What is compared.

    Attributes:
      run: runs a command line.
      read_config: gives the gin text of a command line.
      folder: STUDY_DIR.
      gin_files: the model's and the task's.
      settings: of all commands.
      train_settings: of those that train on the task.
      base_settings: of those that make bases.
      bases: {name: what makes a base model of another}: a variant whose run exports a model.
      variants: {name: what is compared}.
      axis: (macro, its values), or None.
      seeds: of each point.
      evaluations: {name: settings of `eval`, such as another EVAL_FILE}, beside the validation
        that training does.
      members: prompts that are trained for each seed, to be scored one by one and as an
        ensemble; 0 for one prompt, scored by `eval`.
      together: False trains one prompt after the other, for what is too large side by side.
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
        """All."""
        values = self.axis[1] if self.axis else [None]
        for variant, value in itertools.product(self.variants, values):
            yield Point(variant, value)

    def base(self, name: str | None) -> Settings:
        """The settings of a base model, which is made if it is not there."""
        if name is None:
            return {}
        own = self.bases[name]
        folder = self.folder / "bases" / name
        given = {**self.base_settings, **self.base(own.base), **own.settings}
        given["MODEL_DIR"] = str(folder)
        files = [own.model or self.gin_files[0], *own.gin_files, *own.run_files]
        result = self._kept(folder, "train", files, given)
        return {"INITIAL_CHECKPOINT_PATH": result["model"]}

    def rows(self, point: Point) -> Iterator[summaries.Row]:
        """Of each seed: how many numbers were trained, and what they score."""
        variant = self.variants[point.variant]
        given = {**self.settings, **self.base(variant.base), **variant.settings}
        if self.axis:
            given[self.axis[0]] = point.value
        model, *tasks = self.gin_files
        files = [variant.model or model, *tasks, *variant.gin_files]
        folder = self.folder / "points" / point.name

        def row(seed: int, trained: int, scores: Scores) -> summaries.Row:
            return {**dataclasses.asdict(point), "seed": seed, "trained": trained, "scores": scores}

        if not variant.run_files:  # What is not trained has no seed.
            evaluations = {summaries.VALIDATION: {}, **self.evaluations}
            yield row(self.seeds[0], 0, self._evaluated(folder, files, given, evaluations))
            return
        seeds = list(self.seeds)
        if self.members:
            seeds = [seed * self.members + i for seed in seeds for i in range(self.members)]
        results = self._trained(folder, [*files, *variant.run_files], given, variant, seeds)
        for number, seed in enumerate(self.seeds):
            if self.members:
                some = results[number * self.members :][: self.members]
                place = folder / "ensembles" / f"seed_{seed}"
                scores = self._ensembled(place, files, given, [_best(each) for each in some])
                yield row(seed, sum(each["trained"] for each in some), scores)
                continue
            place, result = folder / f"seed_{seed}", results[number]
            tuned = {**given, **_settings_of(result)}
            scores = self._evaluated(place, files, tuned, self.evaluations)
            yield row(seed, result["trained"], {summaries.VALIDATION: result["best"], **scores})

    def _trained(
        self,
        folder: epath.Path,
        files: Sequence[str],
        given: Settings,
        variant: Variant,
        seeds: Sequence[int],
    ) -> list[Mapping[str, Any]]:
        """What `train` returned of each seed."""
        settings = {**given, **self.train_settings, **variant.train_settings}
        if self.together and variant.together and len(seeds) > 1:
            settings |= {"RANDOM_SEED": tuple(seeds), "MODEL_DIR": str(folder)}
            results = self._kept(folder, "train", files, settings)
        else:
            results = []
            for seed in seeds:
                place = folder / f"seed_{seed}"
                settings |= {"RANDOM_SEED": seed, "MODEL_DIR": str(place)}
                results.append(self._kept(place, "train", files, settings))
        if any(result["best"] is None for result in results):
            raise ValueError(
                f"the run in {folder} has no evaluation, and so no score; expected a task with a "
                "validation split and metrics. Choose such a task in STUDY_FILES or "
                "STUDY_SETTINGS."
            )
        return results

    def _evaluated(
        self,
        folder: epath.Path,
        files: Sequence[str],
        given: Settings,
        evaluations: Mapping[str, Settings],
    ) -> Scores:
        """The metrics of each evaluation, on average over its tasks."""
        found: Scores = {}
        for name, settings in evaluations.items():
            place = folder / "evaluations" / name
            asking = {**given, **settings, "EVAL_OUTPUT_DIR": str(place)}
            result = self._kept(place, "eval", [*files, "runs/eval.gin"], asking)
            of_tasks = [metrics for metrics in result.values() if metrics]
            if not of_tasks:
                raise ValueError(
                    f"{name!r} of STUDY_EVALUATIONS has no metrics; expected a task with metrics "
                    "and a SPLIT with targets. Change its settings."
                )
            shared = [key for key in of_tasks[0] if all(key in metrics for metrics in of_tasks)]
            for key in shared:
                column = name if len(shared) == 1 else f"{name} {key}"
                found[column] = statistics.mean(metrics[key] for metrics in of_tasks)
        return found

    def _ensembled(
        self, folder: epath.Path, files: Sequence[str], given: Settings, prompts: Sequence[str]
    ) -> Scores:
        """The first metric of one task: average and best of the prompts, and of all as one."""
        asking = {**given, "PROMPT_FILE": list(prompts), "EVAL_OUTPUT_DIR": str(folder)}
        result = self._kept(folder, "ensemble", [*files, "runs/ensemble.gin"], asking)
        (found,) = result.values()
        ways = ("average", "best", "majority vote", "mean log-likelihood")
        return {way: next(iter(found[way].values())) for way in ways if way in found}

    def _kept(
        self, folder: epath.Path, verb: str, gin_files: Sequence[str], settings: Settings
    ) -> Any:
        """What a command returned, which is run if it has not been run with these settings."""
        arguments = [verb, *(f"--gin_file={file}" for file in gin_files)]
        arguments += [f"--gin.{name}={value!r}" for name, value in settings.items()]
        # What a command writes to, its arguments say; a folder of data may hold the study itself.
        inputs = settings_lib.of_command(self.read_config(arguments), OUTPUTS)
        file = folder / "result.json"
        if file.exists():
            kept = json.loads(file.read_text())
            if kept["arguments"] != arguments:
                raise ValueError(
                    f"{file} was made with other settings of the study; expected the same "
                    f"settings. Delete {folder}, or set another STUDY_DIR."
                )
            _check_inputs(file, kept.get("settings"), inputs)
            return kept["result"]
        logging.info("Study: running prompt-tuning %s", " ".join(arguments))
        result = self.run(arguments)
        settings_lib.write(file, inputs, arguments=arguments, result=result)
        return result


def _check_inputs(
    file: epath.Path, kept: Mapping[str, Any] | None, inputs: settings_lib.Settings
) -> None:
    """Raises ValueError where a result was made of other data, weights or gin files."""
    if kept is None:
        logging.warning("%s has no record of its inputs, which are not compared.", file)
    elif lines := settings_lib.differences(settings_lib.from_json(kept), inputs):
        raise ValueError(
            f"{file} was made from other inputs (old -> new):\n  "
            + "\n  ".join(lines)
            + f"\nExpected the same inputs. Delete {file.parent}, or set another STUDY_DIR."
        )


def _best(result: Mapping[str, Any]) -> str:
    """The file of the best prompt of a run."""
    last = epath.Path(result["prompt_file"])
    return str(last.with_name(f"best{last.suffix}"))


def _settings_of(result: Mapping[str, Any]) -> Settings:
    """Settings of `eval` for what a run has trained: the best prompt, or the last model."""
    if "model" in result:
        without = dict.fromkeys(("PROMPT", "PROMPT_FILE"))
        return {"INITIAL_CHECKPOINT_PATH": result["model"], **without}
    return {"PROMPT_FILE": _best(result)}


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
    """`prompt-tuning study`: runs what is missing of a grid, then tells mean and deviation over seeds.

    Writes to `output_dir`: config.gin, points/ and bases/ with the runs, study.json with what is
    returned, study.md with the table and study.png.

    Args:
      run: runs a command line.
      output_dir: STUDY_DIR.
      gin_files: STUDY_FILES, the model's and the task's.
      variants: {name: arguments of `Variant`}.
      settings: see `Study`, as for the next six.
      train_settings: see above.
      base_settings: see above.
      bases: {name: arguments of `Variant`}; "run_files" is LM adaptation where it is not given.
      axis: see above.
      seeds: see above.
      evaluations: see above.
      members: see above.
      together: see above.
      difference: two variants; the scores of the first less those of the second are told too.
      title: of the table and the picture.
      read_config: gives the gin text of a command line, by which a result that is kept is compared.
      config_text: the settings, written to config.gin.

    Returns:
      A row for each point and seed: {"variant", "value", "seed", "trained", "scores": {name:
      score}}; "trained" counts numbers.
    """
    grid = Study(
        run=run,
        read_config=read_config,
        folder=epath.Path(output_dir),
        gin_files=gin_files,
        settings=settings or {},
        train_settings=train_settings or {},
        base_settings=base_settings or {},
        bases={n: _variant("STUDY_BASES", n, {**LM_ADAPTATION, **of}) for n, of in bases.items()},
        variants={n: _variant("STUDY_VARIANTS", n, of) for n, of in variants.items()},
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
    summary = summaries.summarise(rows)
    cells = summaries.cells(summary, axis)
    if difference:
        cells += summaries.difference(rows, *difference, axis)
    reporting.write_text(grid.folder / "study.md", summaries.markdown(cells, title))
    summaries.plot(summary, grid.folder / "study.png", title, axis)
    print(reporting.table(cells))
    return rows


def _variant(setting: str, name: str, given: Mapping[str, Any]) -> Variant:
    known = [field.name for field in dataclasses.fields(Variant)]
    if unknown := sorted(given.keys() - set(known)):
        raise ValueError(
            f"{name!r} of {setting} has {unknown}; expected names from {known}. Correct {setting}."
        )
    return Variant(**given)


def _check(grid: Study, difference: tuple[str, str] | None) -> None:
    """Raises ValueError where a study cannot be run to its end."""
    for setting, some in (("STUDY_VARIANTS", grid.variants), ("STUDY_SEEDS", grid.seeds)):
        if not some:
            raise ValueError(
                f"{setting} is {some!r}; expected at least one element. Set {setting}, or include "
                "a file of studies/."
            )
    for name, own in {**grid.bases, **grid.variants}.items():
        if own.base is not None and own.base not in grid.bases:
            raise ValueError(
                f"{name!r} has the base {own.base!r}; expected one of STUDY_BASES, "
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

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

from prompt_tuning.analysis import figures
from prompt_tuning.runtime import reporting

# A command line -> what the command returns.
Command = Callable[[Sequence[str]], Any]
Settings = Mapping[str, Any]
VALIDATION = "validation"
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
    """

    gin_files: Sequence[str] = ()
    run_files: Sequence[str] = ("runs/train.gin",)
    settings: Settings = dataclasses.field(default_factory=dict)
    train_settings: Settings = dataclasses.field(default_factory=dict)
    base: str | None = None


@dataclasses.dataclass(frozen=True)
class Point:
    """A run of a study: which variant, at which value of the axis, with which seed."""

    variant: str
    value: Any
    seed: int

    @property
    def name(self) -> str:
        """A folder's name."""
        parts = [self.variant, *([] if self.value is None else [self.value]), f"seed_{self.seed}"]
        return "/".join(re.sub(r"[^\w.]+", "_", str(part)) for part in parts)


@dataclasses.dataclass
class Study:
    """What is compared.

    Attributes:
      run: runs a command line.
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
    """

    run: Command
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

    def points(self) -> Iterator[Point]:
        """All runs."""
        values = self.axis[1] if self.axis else [None]
        for variant, value, seed in itertools.product(self.variants, values, self.seeds):
            # What is not trained has no seed.
            if seed == self.seeds[0] or self.variants[variant].run_files:
                yield Point(variant, value, seed)

    def base(self, name: str | None) -> Settings:
        """The settings of a base model, which is made if it is not there."""
        if name is None:
            return {}
        own = self.bases[name]
        folder = self.folder / "bases" / name
        given = {**self.base_settings, **self.base(own.base), **own.settings}
        given["MODEL_DIR"] = str(folder)
        files = [self.gin_files[0], *own.gin_files, *own.run_files]
        result = self._kept(folder, "train", files, given)
        return {"INITIAL_CHECKPOINT_PATH": result["model"]}

    def scores(self, point: Point) -> dict[str, float]:
        """{"validation" or an evaluation: the first metric of its tasks, on average}."""
        variant = self.variants[point.variant]
        folder = self.folder / "points" / point.name
        given = {**self.settings, **self.base(variant.base), **variant.settings}
        if self.axis:
            given[self.axis[0]] = point.value
        files = [*self.gin_files, *variant.gin_files]
        found = {}
        if variant.run_files:
            training = {**given, **self.train_settings, **variant.train_settings}
            training |= {"RANDOM_SEED": point.seed, "MODEL_DIR": str(folder)}
            result = self._kept(folder, "train", [*files, *variant.run_files], training)
            if result["best"] is None:
                raise ValueError(
                    f"the run in {folder} was not evaluated, so it has no score; choose a task with a "
                    "validation split and metrics in STUDY_FILES or STUDY_SETTINGS"
                )
            found[VALIDATION] = result["best"]
            given |= _trained(result, folder)
        evaluations = (
            self.evaluations if variant.run_files else {VALIDATION: {}, **self.evaluations}
        )
        for name, settings in evaluations.items():
            place = folder / "evaluations" / name
            asking = {**given, **settings, "EVAL_OUTPUT_DIR": str(place)}
            result = self._kept(place, "eval", [*files, "runs/eval.gin"], asking)
            firsts = [next(iter(metrics.values())) for metrics in result.values() if metrics]
            if not firsts:
                raise ValueError(
                    f"{name!r} of STUDY_EVALUATIONS has no metrics; choose a task, and a SPLIT with answers"
                )
            found[name] = statistics.mean(firsts)
        return found

    def _kept(
        self, folder: epath.Path, verb: str, gin_files: Sequence[str], settings: Settings
    ) -> Any:
        """What a command returned, which is run if it has not been run with these settings."""
        arguments = [verb, *(f"--gin_file={file}" for file in gin_files)]
        arguments += [f"--gin.{name}={value!r}" for name, value in settings.items()]
        file = folder / "result.json"
        if file.exists():
            kept = json.loads(file.read_text())
            if kept["arguments"] == arguments:
                return kept["result"]
            raise ValueError(
                f"{file} is of other settings of the study; delete {folder}, or set another STUDY_DIR"
            )
        logging.info("study: prompt-tuning %s", " ".join(arguments))
        result = self.run(arguments)
        text = json.dumps({"arguments": arguments, "result": result}, indent=2)
        reporting.write_text(file, text + "\n")
        return result


def _trained(result: Mapping[str, Any], folder: epath.Path) -> dict[str, Any]:
    """Settings of `eval` for what a run has trained: the best prompt, or the last model."""
    if "model" in result:
        without = dict.fromkeys(("PROMPT", "PROMPT_FILE"))
        return {"INITIAL_CHECKPOINT_PATH": result["model"], **without}
    suffix = epath.Path(result["prompt_file"]).suffix
    return {"PROMPT_FILE": str(folder / "prompts" / f"best{suffix}")}


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
    title: str = "",
    config_text: str = "",
) -> list[dict[str, Any]]:
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
      title: of the table and the picture.
      config_text: the settings, written to config.gin.

    Returns:
      A row for each run: {"variant", "value", "seed", "scores": {name: score}}.
    """
    grid = Study(
        run=run,
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
    )
    _check(grid)
    reporting.start_folder(output_dir, config_text, "STUDY_DIR")
    rows = []
    for point in grid.points():
        rows.append({**dataclasses.asdict(point), "scores": grid.scores(point)})
        reporting.write_text(grid.folder / "study.json", json.dumps(rows, indent=2) + "\n")
    summary = summarise(rows)
    reporting.write_text(grid.folder / "study.md", markdown(summary, title, axis))
    plot(summary, grid.folder / "study.png", title, axis)
    print(reporting.table(_cells(summary, axis)))
    return rows


def _variant(setting: str, name: str, given: Mapping[str, Any]) -> Variant:
    known = [field.name for field in dataclasses.fields(Variant)]
    if unknown := sorted(given.keys() - set(known)):
        raise ValueError(f"{name!r} of {setting} has {unknown}; expected some of {known}")
    return Variant(**given)


def _check(grid: Study) -> None:
    """Raises ValueError where a study cannot be run to its end."""
    for setting, some in (("STUDY_VARIANTS", grid.variants), ("STUDY_SEEDS", grid.seeds)):
        if not some:
            raise ValueError(
                f"{setting} is {some!r}; expected at least one: give a file of studies/"
            )
    for name, own in {**grid.bases, **grid.variants}.items():
        if own.base is not None and own.base not in grid.bases:
            raise ValueError(
                f"{name!r} stands on the base {own.base!r}; STUDY_BASES has {list(grid.bases)}"
            )


Summary = Mapping[tuple[str, Any], Mapping[str, tuple[float, float, int]]]


def summarise(rows: Sequence[Mapping[str, Any]]) -> Summary:
    """{(variant, value): {score's name: (mean, sample deviation or nan, seeds)}}."""
    groups: dict[tuple[str, Any], list[Mapping[str, float]]] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["value"]), []).append(row["scores"])

    def of(values: Sequence[float]) -> tuple[float, float, int]:
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        return statistics.mean(values), spread, len(values)

    return {
        key: {name: of([each[name] for each in some]) for name in some[0]}
        for key, some in groups.items()
    }


def _cells(summary: Summary, axis: tuple[str, Sequence[Any]] | None) -> list[list[str]]:
    names = list(next(iter(summary.values())))
    rows = [["", *([axis[0]] if axis else []), *names]]
    for (variant, value), scores in summary.items():
        cells = [
            f"{mean:.1f}" + (f" ± {spread:.1f}" if count > 1 else "")
            for mean, spread, count in (scores[name] for name in names)
        ]
        rows.append([variant, *([str(value)] if axis else []), *cells])
    return rows


def markdown(summary: Summary, title: str, axis: tuple[str, Sequence[Any]] | None) -> str:
    """The table: mean ± sample deviation over seeds."""
    head, *rows = _cells(summary, axis)
    lines = [head, ["---"] * len(head), *rows]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return f"{title}\n\n{table}" if title else table


def plot(
    summary: Summary,
    path: epath.PathLike,
    title: str,
    axis: tuple[str, Sequence[Any]] | None,
) -> None:
    """With an axis a line a variant; else a group of bars a variant. Error bars: one deviation."""
    variants = list(dict.fromkeys(variant for variant, _ in summary))
    label = axis[0].lower().replace("_", " ") if axis else ""
    with figures.figure(path, label, "score, %", title) as axes:
        if axis:
            figures.lines(
                axes,
                {
                    variant: [
                        (value, *summary[variant, value][VALIDATION][:2]) for value in axis[1]
                    ]
                    for variant in variants
                },
            )
        else:
            figures.bars(
                axes,
                {
                    variant: {name: of[:2] for name, of in summary[variant, None].items()}
                    for variant in variants
                },
            )

"""Studies: commands, resumption, comparison of inputs, means and deviations."""

import json

import pytest

from prompt_tuning.analysis import studies
from prompt_tuning.cli import main as cli


class Commands:
    """Records command lines; the score of a run is its seed, plus 10 for full fine-tuning."""

    def __init__(self):
        self.lines = []

    def __call__(self, arguments):
        self.lines.append(arguments)
        flags = dict(each.removeprefix("--gin.").split("=", 1) for each in arguments[1:])
        if arguments[0] == "eval":
            return {"eval": {"accuracy": 50.0, "other": 1.0}, "second": {"accuracy": 60.0}}
        if arguments[0] == "ensemble":
            return {"eval": {"average": {"accuracy": 6.0}, "majority vote": {"accuracy": 7.0}}}
        folder, seeds = eval(flags["MODEL_DIR"]), eval(flags.get("RANDOM_SEED", "0"))
        if isinstance(seeds, int):
            return self.result(arguments, folder, seeds)
        return [self.result(arguments, f"{folder}/seed_{seed}", seed) for seed in seeds]

    def result(self, arguments, folder, seed):
        result = {"best": float(seed), "step": 3, "metrics": {}, "trained": 8}
        if any("weights" in each for each in arguments):
            return result | {"model": f"{folder}/model_3", "best": seed + 10.0, "trained": 9000}
        return result | {"prompt_file": f"{folder}/prompts/prompt_3.npy"}

    def of(self, verb):
        return [line for line in self.lines if line[0] == verb]


WEIGHTS = {
    "together": False,
    "run_files": ["runs/train.gin", "optimizers/weights.gin"],
    "settings": {"PROMPT": None},
    "train_settings": {"LEARNING_RATE": 0.1},
}


def run_study(commands, folder, **others):
    arguments = {
        "gin_files": ["model.gin", "task.gin"],
        "variants": {"tuned": {"gin_files": ["start.gin"]}, "full": WEIGHTS},
        "train_settings": {"TRAIN_STEPS": 3},
        "seeds": (1, 2, 6),
    }
    return studies.study(run=commands, output_dir=str(folder), **{**arguments, **others})


def test_each_point_runs_with_its_settings(tmp_path, capsys):
    commands = Commands()
    rows = run_study(commands, tmp_path, axis=("PROMPT_LENGTH", [1, 5]))
    # One command trains the three prompts of a point.
    assert len(commands.lines) == 2 + 2 * 3 and len(rows) == 2 * 2 * 3
    assert commands.lines[0] == [
        "train",
        "--gin_file=model.gin",
        "--gin_file=task.gin",
        "--gin_file=start.gin",
        "--gin_file=runs/train.gin",
        "--gin.PROMPT_LENGTH=1",
        "--gin.TRAIN_STEPS=3",
        "--gin.RANDOM_SEED=(1, 2, 6)",
        f"--gin.MODEL_DIR='{tmp_path}/points/tuned/1'",
    ]
    assert commands.lines[2][-2:] == [
        "--gin.RANDOM_SEED=1",
        f"--gin.MODEL_DIR='{tmp_path}/points/full/1/seed_1'",
    ]
    scores = {"validation": 1.0}
    assert rows[0] == {"variant": "tuned", "value": 1, "seed": 1, "trained": 8, "scores": scores}
    # Mean and sample deviation of 1, 2 and 6; of 11, 12 and 16.
    table = (tmp_path / "study.md").read_text().splitlines()
    assert table[-4:] == [
        "| tuned | 1 | 8 | 3.0 ± 2.6 |",
        "| tuned | 5 | 8 | 3.0 ± 2.6 |",
        "| full | 1 | 9,000 | 13.0 ± 2.6 |",
        "| full | 5 | 9,000 | 13.0 ± 2.6 |",
    ]
    assert "3.0 ± 2.6" in capsys.readouterr().out
    assert json.loads((tmp_path / "study.json").read_text()) == rows
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")


def test_interrupted_study_resumes(tmp_path):
    uninterrupted = run_study(Commands(), tmp_path / "uninterrupted")

    class Stopped(Commands):
        def __call__(self, arguments):
            if len(self.lines) == 2:
                raise KeyboardInterrupt
            return super().__call__(arguments)

    first, second = Stopped(), Commands()
    with pytest.raises(KeyboardInterrupt):
        run_study(first, tmp_path / "study")
    rows = run_study(second, tmp_path / "study")
    assert len(first.lines) == 2 and len(second.lines) == 2
    assert rows == uninterrupted


def test_variant_sets_another_model(tmp_path):
    commands = Commands()
    run_study(commands, tmp_path, variants={"large": {"model": "large.gin"}})
    assert commands.lines[0][1:3] == ["--gin_file=large.gin", "--gin_file=task.gin"]


def test_seeds_are_trained_by_separate_commands_if_not_together(tmp_path):
    commands = Commands()
    rows = run_study(commands, tmp_path, variants={"tuned": {}}, together=False)
    assert [line[-2] for line in commands.lines] == [
        f"--gin.RANDOM_SEED={seed}" for seed in (1, 2, 6)
    ]
    assert rows == run_study(Commands(), tmp_path / "together", variants={"tuned": {}})


def test_each_seed_evaluates_an_ensemble(tmp_path):
    commands = Commands()
    rows = run_study(commands, tmp_path, variants={"tuned": {}}, members=2, seeds=(0, 3))
    (train,), ensembles = commands.of("train"), commands.of("ensemble")
    assert "--gin.RANDOM_SEED=(0, 1, 6, 7)" in train and len(ensembles) == 2
    files = [f"{tmp_path}/points/tuned/seed_{seed}/prompts/best.npy" for seed in (6, 7)]
    assert f"--gin.PROMPT_FILE={files}" in ensembles[1]
    scores = {"average": 6.0, "majority vote": 7.0}
    assert [(row["seed"], row["trained"], row["scores"]) for row in rows] == [
        (0, 16, scores),
        (3, 16, scores),
    ]


def test_results_of_other_settings_are_refused(tmp_path):
    run_study(Commands(), tmp_path)
    with pytest.raises(
        ValueError, match=r"with other settings of the study; .* Delete .*STUDY_DIR"
    ):
        run_study(Commands(), tmp_path, train_settings={"TRAIN_STEPS": 4})


def test_results_of_other_inputs_are_refused(tmp_path):
    data = tmp_path / "train.tsv"
    data.write_text("a")
    arguments = {"read_config": lambda arguments: f"TRAIN_FILE = '{data}'\nBATCH_SIZE = 8\n"}
    rows = run_study(Commands(), tmp_path / "study", **arguments)
    again = Commands()
    assert run_study(again, tmp_path / "study", **arguments) == rows and again.lines == []
    data.write_text("b")
    expected = r"(?s)result.json was made from other inputs .*TRAIN_FILE: .* \(content .*Delete .*STUDY_DIR"
    with pytest.raises(ValueError, match=expected):
        run_study(Commands(), tmp_path / "study", **arguments)


def test_results_without_inputs_are_kept_with_a_warning(tmp_path, caplog):
    rows = run_study(Commands(), tmp_path)
    for file in tmp_path.rglob("result.json"):
        kept = json.loads(file.read_text())
        file.write_text(json.dumps({k: v for k, v in kept.items() if k != "settings"}))
    assert run_study(Commands(), tmp_path) == rows
    assert "has no record of its inputs" in caplog.text


def test_evaluations_use_the_best_prompt_or_the_trained_model(tmp_path):
    commands = Commands()
    rows = run_study(
        commands, tmp_path, seeds=(4,), evaluations={"there": {"EVAL_FILE": "there.tsv"}}
    )
    tuned, full = commands.of("eval")
    assert f"--gin.PROMPT_FILE='{tmp_path}/points/tuned/seed_4/prompts/best.npy'" in tuned
    assert "--gin.EVAL_FILE='there.tsv'" in tuned and "--gin_file=start.gin" in tuned
    assert f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path}/points/full/seed_4/model_3'" in full
    assert {"--gin.PROMPT=None", "--gin.PROMPT_FILE=None"} <= set(full)
    rates = ["--gin.LEARNING_RATE=0.1" in line for line in (commands.of("train")[1], full)]
    assert rates == [True, False]
    # The mean over the metrics that both tasks have.
    assert [row["scores"] for row in rows] == [
        {"validation": 4.0, "there": 55.0},
        {"validation": 14.0, "there": 55.0},
    ]


def test_variant_without_training_is_evaluated_once(tmp_path):
    commands = Commands()
    rows = run_study(commands, tmp_path, variants={"by hand": {"run_files": []}})
    assert [line[0] for line in commands.lines] == ["eval"]
    assert rows[0]["scores"] == {"validation": 55.0} and len(rows) == 1
    assert "by hand | 0 | 55.0 |" in (tmp_path / "study.md").read_text()


def test_bases_are_trained_once_in_order(tmp_path):
    commands = Commands()
    bases = {
        "denoised": {"run_files": ["runs/pretrain.gin", "weights"], "settings": {"A": 1}},
        "adapted": {"run_files": ["runs/lm_adapt.gin", "weights"], "base": "denoised"},
    }
    variants = {"before": {"base": "denoised"}, "after": {"base": "adapted"}}
    run_study(commands, tmp_path, bases=bases, variants=variants, seeds=(1, 2))
    made = [line for line in commands.lines if any("runs/train" in each for each in line) is False]
    assert len(made) == 2 and len(commands.lines) == 2 + 2
    path = f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path}/bases/denoised/model_3'"
    assert path not in made[0] and path in made[1] and path in commands.lines[1]
    last = f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path}/bases/adapted/model_3'"
    assert last in commands.lines[-1]


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"variants": {}}, r"STUDY_VARIANTS is \{\}; expected at least one"),
        ({"seeds": ()}, r"STUDY_SEEDS is \(\); expected at least one"),
        (
            {"variants": {"a": {"files": []}}},
            "'a' of STUDY_VARIANTS has .'files'.; expected names from",
        ),
        ({"variants": {"a": {"base": "b"}}}, "'a' has the base 'b'; expected one of STUDY_BASES"),
        (
            {"difference": ("tuned", "b")},
            "STUDY_DIFFERENCE has .'b'.; expected names of STUDY_VARIANTS",
        ),
        ({"members": 1}, "STUDY_ENSEMBLE is 1, .* two or more prompts in an ensemble"),
    ],
)
def test_invalid_studies_are_refused(tmp_path, settings, part):
    commands = Commands()
    with pytest.raises(ValueError, match=part):
        run_study(commands, tmp_path / "study", **settings)
    assert not commands.lines and not (tmp_path / "study").exists()


def test_run_without_a_score_is_refused(tmp_path):
    def unevaluated(arguments):
        return {"best": None, "prompt_file": "p.npy"}

    with pytest.raises(ValueError, match="has no evaluation, and so no score; expected a task"):
        run_study(unevaluated, tmp_path, together=False)


def test_evaluation_without_metrics_is_refused(tmp_path):
    def unlabelled(arguments):
        return {"test": {}} if arguments[0] == "eval" else {"best": 1.0, "prompt_file": "p.npy"}

    with pytest.raises(ValueError, match="'there' of STUDY_EVALUATIONS has no metrics"):
        run_study(unlabelled, tmp_path, together=False, evaluations={"there": {"SPLIT": "test"}})


def test_command_trains_and_evaluates_two_lengths(tiny_job, tmp_path):
    """Trains two prompt lengths and evaluates them on another file."""
    settings = {
        "STUDY_DIR": str(tmp_path),
        "STUDY_FILES": ["tiny.gin"],
        "STUDY_AXIS": ("PROMPT_LENGTH", [1, 3]),
        "STUDY_SEEDS": (0,),
        "STUDY_TRAIN_SETTINGS": {
            "TRAIN_STEPS": None,
            "TRAIN_STEPS_RELATIVE": 2,
            "BATCH_SIZE": 16,
        },
        "STUDY_EVALUATIONS": {"train": {"EVAL_FILE": str(tiny_job.folder / "eval.tsv")}},
    }
    flags = [f"--gin.{name}={value!r}" for name, value in settings.items()]
    # The search path is passed once, for all commands of the study.
    flags.append(f"--gin_search_paths={tiny_job.folder}")
    rows = cli.run(["study", "--gin_file=studies/prompt_length.gin", *flags])
    assert [row["value"] for row in rows] == [1, 3]
    for row in rows:
        # The best prompt, evaluated on the file of the validation.
        assert row["scores"]["train"] == row["scores"]["validation"]

"""Runs side by side: each is what it would be alone."""

import json

import numpy as np
import pytest

from prompt_tuning.checkpoints import prompt_files, train_state
from prompt_tuning.cli import main as cli
from prompt_tuning.training import multi_seed
from prompt_tuning.training import run as run_lib

SEEDS = (3, 4)
SETTINGS = {"TRAIN_STEPS": 1006, "EVAL_PERIOD": 2, "LOG_PERIOD": 1, "BATCH_SIZE": 8}


def train(tiny_job, folder, seed):
    return cli.run(tiny_job.command("train", MODEL_DIR=folder, RANDOM_SEED=seed, **SETTINGS))


@pytest.fixture(scope="module")
def alone(tiny_job, tmp_path_factory):
    """The folders of runs with one seed each."""
    folders = [tmp_path_factory.mktemp(f"seed_{seed}") for seed in SEEDS]
    for folder, seed in zip(folders, SEEDS, strict=True):
        train(tiny_job, folder, seed)
    return folders


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def assert_same(folder, alone):
    """Whatever a run writes, but for the clock."""
    names = [sorted(str(x.relative_to(f)) for x in f.rglob("*.*")) for f in (folder, alone)]
    # The names of events and of parts of a state are drawn by lot.
    ours, theirs = ([x for x in some if "events" not in x and "/d/" not in x] for some in names)
    assert ours == theirs
    for name in ("prompt_1000", "prompt_1002", "prompt_1006", "best"):
        ours, theirs = (prompt_files.load(f / "prompts" / f"{name}.npy") for f in (folder, alone))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    for name in ("train/metrics.jsonl", "inference_eval/eval-metrics.jsonl"):
        ours, theirs = lines(folder, name), lines(alone, name)
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs, strict=True):
            for key in their.keys() - {k for k in their if k.startswith("timing")}:
                assert our[key] == pytest.approx(their[key], rel=1e-4), (name, key)
    ours, theirs = (train_state.read_metadata(f, 1006) for f in (folder, alone))
    assert ours["position"] == theirs["position"] and ours["digest"] == theirs["digest"]


def test_each_run_is_what_it_is_alone(tiny_job, tmp_path, alone, capsys):
    results = train(tiny_job, tmp_path, SEEDS)
    for seed, folder, result in zip(SEEDS, alone, results, strict=True):
        assert_same(tmp_path / f"seed_{seed}", folder)
        assert result["prompt_file"].endswith(f"seed_{seed}/prompts/prompt_1006.npy")
    assert "seed_4:" in capsys.readouterr().err
    # Another order of the examples, another start.
    ours, theirs = (prompt_files.load(f / "prompts/prompt_1000.npy") for f in alone)
    assert not np.allclose(ours, theirs)
    ours, theirs = (lines(f, "train/metrics.jsonl") for f in alone)
    assert ours[0]["loss"] != theirs[0]["loss"]


def test_runs_that_were_saved_by_halves_catch_up(tiny_job, tmp_path, alone, monkeypatch):
    save = run_lib.Run.save
    for dies_at, last in ((1000, None), (1004, 1002)):

        def dying(run, unlogged, dies_at=dies_at):
            if run.model_dir.name == "seed_4" and run.step == dies_at:
                raise RuntimeError("power cut")
            save(run, unlogged)

        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            patch.setattr(run_lib.Run, "save", dying)
            train(tiny_job, tmp_path, SEEDS)
        steps = [train_state.latest_step(tmp_path / f"seed_{seed}") for seed in SEEDS]
        assert steps == [dies_at, last]
    train(tiny_job, tmp_path, SEEDS)
    for seed, folder in zip(SEEDS, alone, strict=True):
        assert_same(tmp_path / f"seed_{seed}", folder)


class Of:
    """Batches of one shape."""

    def __init__(self, *shape):
        self.shape, self.position = shape, {"epoch": 0, "examples": 0}

    def __next__(self):
        self.position = {"epoch": 1, "examples": self.shape[1]}
        return {"ids": np.full(self.shape, 7), "segments": np.ones((2, 3), int)}


def test_batches_get_one_shape():
    batches = multi_seed.Batches([Of(2, 5), Of(2, 8)])
    small, large = next(batches)
    assert small["ids"].shape == large["ids"].shape == (2, 8) and (large["ids"] == 7).all()
    np.testing.assert_array_equal(small["ids"][0], [7] * 5 + [0] * 3)
    assert small["segments"].shape == (2, 3)
    assert batches.position == [{"epoch": 1, "examples": 5}, {"epoch": 1, "examples": 8}]


@pytest.mark.parametrize("seed", [(), (1, 1), "3", (1, -1), 0.5])
def test_seeds_that_are_none(tiny_job, tmp_path, seed):
    message = (
        r"RANDOM_SEED is .*; expected an integer|RANDOM_SEED=.*; expected an integer or a list"
    )
    with pytest.raises((cli.UsageError, ValueError), match=message):
        train(tiny_job, tmp_path / "run", seed)
    assert not (tmp_path / "run").exists()


def test_weights_have_one_seed(tiny_job, tmp_path):
    command = tiny_job.command(
        "train", "runs/train.gin", "optimizers/weights.gin", MODEL_DIR=tmp_path / "run",
        RANDOM_SEED=SEEDS, PROMPT=None, **SETTINGS,
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"RANDOM_SEED has several seeds, .* Set a single RANDOM_SEED"
    ):
        cli.run(command)
    assert not (tmp_path / "run").exists()

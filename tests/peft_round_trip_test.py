"""scripts/peft_round_trip.py, as far as it runs without PEFT."""

import pytest


def test_a_python_without_peft_is_refused_before_tuning(load_script, tmp_path, monkeypatch):
    script = load_script("peft_round_trip")
    monkeypatch.setattr(script.cli, "run", lambda line: pytest.fail("a prompt was tuned"))
    without = tmp_path / "python"
    without.write_text("#!/bin/sh\necho 'No module named torch' >&2\nexit 1\n")
    without.chmod(0o755)
    for python, reason in ((without, "No module named torch"), (tmp_path / "none", "No such file")):
        message = (
            rf"cannot import torch, transformers and peft \(.*{reason}.*set another --peer-python"
        )
        with pytest.raises(SystemExit, match=message):
            script.main(["--peer-python", str(python)])


def test_a_batch_has_ids_with_eos_and_padding(load_script):
    batch = load_script("peft_round_trip")._batch("restaurants", 7)
    assert {name: len(rows) for name, rows in batch.items()} == {"inputs": 7, "targets": 7}
    for rows in batch.values():
        assert ((rows == 1).sum(axis=1) == 1).all()  # one EOS, then padding
        assert (rows[:, 1:][rows[:, :-1] == 1] == 0).all()

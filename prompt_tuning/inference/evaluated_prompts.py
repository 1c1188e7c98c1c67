"""The record of evaluated prompts and their settings; see `prompt-tuning eval`."""

import logging
from collections.abc import Sequence

from etils import epath

from prompt_tuning.checkpoints import prompt_files
from prompt_tuning.checkpoints import prompt_paths as paths_lib
from prompt_tuning.models import model as model_lib
from prompt_tuning.training import reporting
from prompt_tuning.training import settings as settings_lib


class EvaluatedPrompts:
    """The record of a folder: eval.<task>.ckpt, T5X's list of paths, and eval.<task>.settings.json.

    Attributes:
      folder: of metrics and predictions.
      has_several: whether there are several prompts.
      pending: (path, step) of the prompts to evaluate.
      last_step: step of the last evaluated prompt; -1 if there is none.
    """

    def __init__(
        self,
        output_dir: epath.PathLike,
        name: str,
        paths: Sequence[str],
        settings: settings_lib.Settings,
        model: model_lib.EncoderDecoderModel,
    ):
        """Reads the record. A single prompt is always pending.

        One of several is pending unless the same content was evaluated with the same settings.
        """
        root = epath.Path(output_dir)
        self._path, self.folder = root / f"eval.{name}.ckpt", root / "inference_eval"
        self._record, self._settings = root / f"eval.{name}.settings.json", settings
        self.pending: list[tuple[str, int | None]] = [
            (path, paths_lib.step_of(path)) for path in paths
        ] or [("", None)]
        self.has_several = len(paths) > 1
        self.last_step, self._done = -1, dict[str, str]()
        self._digests = {path: _digest(path, model) for path in paths}
        if not self.has_several:
            return
        steps = [step for _, step in self.pending]
        if None in steps or len(set(steps)) < len(steps):
            raise ValueError(
                f"PROMPT_FILE matches prompts of the steps {steps}; expected one prompt per step, "
                "because results are stored by step. Evaluate prompts of the same step with "
                "another EVAL_OUTPUT_DIR."
            )
        done = self._read_done()
        while self.pending and done.get(self.pending[0][0]) == self._digests[self.pending[0][0]]:
            path, self.last_step = self.pending.pop(0)
            self._done[path] = done[path]
        if not self.pending:
            logging.info("All prompts of PROMPT_FILE are already evaluated in %s.", output_dir)

    def _read_done(self) -> dict[str, str]:
        """Returns {path: digest} of the prompts that were evaluated with these settings."""
        record = settings_lib.read_file(self._record)
        if not record:
            return {}
        if lines := settings_lib.differences(record["settings"], self._settings):
            logging.warning(
                "Evaluating all prompts again in %s, because these settings changed (old -> "
                "new):\n  %s",
                self.folder.parent, "\n  ".join(lines),
            )  # fmt: skip
            return {}
        return record.get("prompts", {})

    def add(self, path: str) -> None:
        """Records an evaluated prompt."""
        if path:
            self._done[path] = self._digests[path]
        settings_lib.write(self._record, self._settings, prompts=self._done)
        reporting.write_text(self._path, "".join(f"{done}\n" for done in self._done))


def _digest(path: str, model: model_lib.EncoderDecoderModel) -> str:
    """Returns the identity of a prompt file: its values and its position in an input."""
    (digest,) = settings_lib.prompt_contents(prompt_files.initializer(path), model).values()
    return f"{digest} {prompt_files.place(path)}"

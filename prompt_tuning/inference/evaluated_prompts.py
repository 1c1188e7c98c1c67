"""Which prompts are evaluated in a folder already, and with what: see `prompt-tuning eval`."""

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
      waiting: (path, step) of the prompts to evaluate.
      last_done: the step of the last prompt that is not; -1 where all are.
    """

    def __init__(
        self,
        output_dir: epath.PathLike,
        name: str,
        paths: Sequence[str],
        settings: settings_lib.Settings,
        model: model_lib.EncoderDecoderModel,
    ):
        """One prompt is always evaluated again, several as far as they are not done.

        A prompt is done if its file has the content that was evaluated, with these settings.
        """
        root = epath.Path(output_dir)
        self._path, self.folder = root / f"eval.{name}.ckpt", root / "inference_eval"
        self._record, self._settings = root / f"eval.{name}.settings.json", settings
        self.waiting: list[tuple[str, int | None]] = [
            (path, paths_lib.step_of(path)) for path in paths
        ] or [("", None)]
        self.has_several = len(paths) > 1
        self.last_done, self._done = -1, dict[str, str]()
        self._digests = {path: _digest(path, model) for path in paths}
        if not self.has_several:
            return
        steps = [step for _, step in self.waiting]
        if None in steps or len(set(steps)) < len(steps):
            raise ValueError(
                f"PROMPT_FILE matches prompts of the steps {steps}; expected one prompt per step, "
                "because results are stored by step. Evaluate prompts of the same step with "
                "another EVAL_OUTPUT_DIR."
            )
        kept = self._kept()
        while self.waiting and kept.get(self.waiting[0][0]) == self._digests[self.waiting[0][0]]:
            path, self.last_done = self.waiting.pop(0)
            self._done[path] = kept[path]
        if not self.waiting:
            logging.info("All prompts of PROMPT_FILE are already evaluated in %s.", output_dir)

    def _kept(self) -> dict[str, str]:
        """{path: digest} of the prompts that were evaluated with these settings."""
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
        """Records that a prompt is evaluated."""
        if path:
            self._done[path] = self._digests[path]
        settings_lib.write(self._record, self._settings, prompts=self._done)
        reporting.write_text(self._path, "".join(f"{each}\n" for each in self._done))


def _digest(path: str, model: model_lib.EncoderDecoderModel) -> str:
    """The identity of a prompt file: its values, and its place in an input."""
    (digest,) = settings_lib.prompt_contents(prompt_files.initializer(path), model).values()
    return f"{digest} {prompt_files.place(path)}"

"""Soft tokens in an input: which ids they have, and where they stand among the text's.

A soft token is an id beyond the vocabulary (see `prompts.module`), so that a prefix, a suffix,
a prompt spread between words and one prompt a task differ in nothing but ids.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from prompt_tuning.data import vocabularies

POSITIONS = ("prefix", "after_first", "suffix", "suffix_after_eos")


@dataclasses.dataclass(frozen=True)
class SoftTokens:
    """The soft tokens of every input.

    Attributes:
      ids: of the prompt, or with `num_tasks` those of task 0; task i's are i·P higher.
      position: "prefix"; "after_first", behind the first token; "suffix", behind the text and before
        its end token; "suffix_after_eos", behind all; or a number for each soft token, that of
        the text's token which it stands before. Beyond a text it stands as a suffix.
      num_tasks: 0 for one prompt; else an input's first token is the sentinel of its
        task, and is removed: sentinel i has id sentinels_end - 1 - i.
      sentinels_end: the id behind that of <extra_id_0>.
      names: of several prompts in one table; () for one. An example's "prompt" is the name of
        its own: prompt i's ids are i·P higher.
    """

    ids: Int[np.ndarray, " P"]
    position: str | Sequence[int] = "prefix"
    num_tasks: int = 0
    sentinels_end: int = 0
    names: Sequence[str] = ()

    def __post_init__(self):
        if isinstance(self.position, str):
            known = self.position in POSITIONS
        else:
            known = isinstance(self.position, Sequence) and len(self.position) > 0
            known = known and all(isinstance(each, int) and each >= 0 for each in self.position)
        if not known:
            raise ValueError(
                f"PROMPT_PLACE is {self.position!r}; expected one of {POSITIONS}, or for each soft token the index "
                "of the input token that follows it. Set e.g. PROMPT_PLACE = 'prefix', or (0, 0, 5)."
            )
        if not isinstance(self.position, str) and len(self.position) != len(self):
            raise ValueError(
                f"PROMPT_PLACE has {len(self.position)} indices; expected one for each of the {len(self)} soft "
                f"tokens. Set PROMPT_LENGTH to {len(self.position)}, or correct PROMPT_PLACE."
            )

    def __len__(self) -> int:
        """P: how many an input has."""
        return len(self.ids)

    def insert(self, example: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The example with its soft tokens; it is trimmed before (`batching.MaxLengths`).

        Raises:
          ValueError: there are several prompts, and the example does not name one of them.
        """
        inputs, ids = example["inputs"], self.ids
        if self.num_tasks:
            ids, inputs = ids + self._task(inputs) * len(ids), inputs[1:]
        if self.names:
            ids = ids + self._named(example) * len(ids)
        ended = len(inputs) > 0 and inputs[-1] == vocabularies.EOS_ID
        end = len(inputs) - ended
        if isinstance(self.position, str):
            at = dict(zip(POSITIONS, (0, 1, end, len(inputs)), strict=True))[self.position]
            filled = np.concatenate([inputs[:at], ids, inputs[at:]])
        else:
            filled = np.insert(inputs, np.minimum(np.array(self.position, int), end), ids)
        return {**example, "inputs": filled.astype(np.int32, copy=False)}

    def empty_input(self) -> Int[np.ndarray, "1 S"]:
        """The empty text with its soft tokens, of a single prompt. Raises as `insert`."""
        return self.insert({"inputs": np.array([vocabularies.EOS_ID], np.int32)})["inputs"][None]

    def _named(self, example: Mapping[str, np.ndarray]) -> int:
        name = example.get("prompt")
        name = name.decode() if isinstance(name, bytes) else name
        if name not in self.names:
            raise ValueError(
                f"an example has the prompt name {name!r}; expected one of {list(self.names)}, the names in "
                "PROMPT_FILE. Set PROMPT_COLUMN to the column with these names."
            )
        return list(self.names).index(name)

    def _task(self, inputs: Int[np.ndarray, " T"]) -> int:
        last = self.sentinels_end - 1
        first = int(inputs[0]) if len(inputs) else None
        if first is None or not 0 <= last - first < self.num_tasks:
            raise ValueError(
                f"an input begins with token {first}; with NUM_TASKS = {self.num_tasks} expected one of the "
                f"sentinels {last - self.num_tasks + 1} to {last}, which select the task. Use registered "
                "tasks that begin with one (task_index_…), or begin INPUT_TEMPLATE with '<extra_id_0> ' for "
                "task 0 (not possible with a vocabulary of bytes); for a larger index, increase NUM_TASKS."
            )
        return last - first

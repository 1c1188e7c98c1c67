"""GLUE and SuperGLUE: what their tasks have in common."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompt_tuning.data.files import originals
from prompt_tuning.data.text import metrics, postprocessors


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark of many tasks, most of them texts with a label.

    Attributes:
      name: TFDS's.
      data_sets: name -> what its files look like: `classes`, `features` and `files`.
      read: gives the examples of the original files of (name, folder, split).
      text_steps: of a name, what makes text of examples.
      metrics: of tasks that have others than accuracy.
      postprocessors: of tasks whose answers are no labels.
    """

    name: str
    data_sets: Mapping[str, Any]
    read: Callable[..., Any]
    text_steps: Callable[[str], Sequence[Callable]]
    metrics: Mapping[str, Sequence[metrics.Metric]]
    postprocessors: Mapping[str, Callable]

    def source(self, name: str, version: str, splits: Sequence[str] = ()) -> originals.Source:
        """A data set in a version of TFDS, with all of its splits or some."""
        data_set = self.data_sets[name]
        return originals.Source(
            f"{self.name}/{name}:{version}",
            read=functools.partial(self.read, name),
            features=data_set.features,
            splits=tuple(splits or data_set.files),
        )

    def postprocess(self, name: str) -> Callable:
        """Makes of a text the number of a label, or what else the task compares."""
        classes = tuple(self.data_sets[name].classes)
        by_label = functools.partial(postprocessors.class_id, names=classes)
        return self.postprocessors.get(name, by_label)

    def metrics_of(self, name: str) -> Sequence[metrics.Metric]:
        """Of what `postprocess` makes; none where no split has answers."""
        return self.metrics.get(name, (metrics.accuracy,))

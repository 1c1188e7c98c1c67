"""The common structure of GLUE and SuperGLUE."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompt_tuning.data.files import originals
from prompt_tuning.data.text import metrics, postprocessors


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark of several tasks, most of them classification.

    Attributes:
      name: name in TFDS.
      data_sets: name -> `classes`, `features` and `files` of a data set.
      read: (name, folder, split) -> examples of the original files.
      text_steps: name -> preprocessors that format examples as text.
      metrics: metrics of tasks that do not use accuracy.
      postprocessors: postprocessors of tasks whose targets are not labels.
    """

    name: str
    data_sets: Mapping[str, Any]
    read: Callable[..., Any]
    text_steps: Callable[[str], Sequence[Callable]]
    metrics: Mapping[str, Sequence[metrics.Metric]]
    postprocessors: Mapping[str, Callable]

    def source(self, name: str, version: str, splits: Sequence[str] = ()) -> originals.Source:
        """Returns a data set in a version of TFDS, with the given splits or all."""
        data_set = self.data_sets[name]
        return originals.Source(
            f"{self.name}/{name}:{version}",
            read=functools.partial(self.read, name),
            features=data_set.features,
            splits=tuple(splits or data_set.files),
        )

    def postprocess(self, name: str) -> Callable:
        """Returns the task's postprocessor, by default from a text to a class index."""
        classes = tuple(self.data_sets[name].classes)
        by_label = functools.partial(postprocessors.class_id, names=classes)
        return self.postprocessors.get(name, by_label)

    def metrics_of(self, name: str) -> Sequence[metrics.Metric]:
        """Returns the task's metrics of postprocessed values; none if no split has answers."""
        return self.metrics.get(name, (metrics.accuracy,))

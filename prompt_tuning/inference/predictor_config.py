"""The configuration of a Predictor: a base model, its adapter, and the devices."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prompt_tuning.data import evaluation_task, pipeline, vocabularies
from prompt_tuning.data.files import fingerprints
from prompt_tuning.distributed import partitioning
from prompt_tuning.inference import predictor
from prompt_tuning.models import decoding
from prompt_tuning.models import model as model_lib
from prompt_tuning.training import settings as settings_lib
from prompt_tuning.training import state


@dataclasses.dataclass(frozen=True)
class PredictorConfig:
    """The model that `eval`, `infer` and `ensemble` predict with. `load` reads the weights.

    Attributes:
      model: network with its prompt and decoder.
      vocabulary: of the model.
      checkpoint: INITIAL_CHECKPOINT_PATH.
      prompt_initializer: reads the adapter parameters; None for a model without adapter.
      labels: {prompt: labels} from the prompts' cards; see `prompt_files.labels`.
      num_partitions: devices that share one copy of the weights.
    """

    model: model_lib.EncoderDecoderModel
    vocabulary: vocabularies.Vocabulary
    checkpoint: str
    prompt_initializer: state.PromptInitializer | None = None
    labels: Mapping[str | None, Sequence[str]] | None = None
    num_partitions: int = 1

    def check_batch_size(self, rows: int) -> None:
        """Raises ValueError if a batch of `rows` rows cannot be divided among the devices."""
        partitioning.check_batch_size(rows, partitioning.make_mesh(self.num_partitions))

    def open_tasks(
        self, dataset: pipeline.DatasetConfig, limit: int | None = None, *, in_memory: bool = True
    ) -> list[evaluation_task.EvaluationTask]:
        """Opens the tasks of a dataset; see `pipeline.evaluation_tasks`."""
        return pipeline.evaluation_tasks(
            dataset,
            self.vocabulary,
            limit,
            in_memory=in_memory,
            known_labels=self.labels,
            **ranking_settings(self.model),
        )

    def open_with_settings(
        self,
        dataset: pipeline.DatasetConfig,
        config_text: str,
        free: Collection[str],
        *,
        limit: int | None = None,
        in_memory: bool = True,
        shard: slice = slice(None),
    ) -> tuple[list[evaluation_task.EvaluationTask], settings_lib.Settings]:
        """Opens the tasks, and identifies the settings, data and weights of their predictions.

        Args:
          dataset: to open.
          config_text: the gin configuration.
          free: settings to leave out, because they do not change predictions.
          limit: examples of each task; None for all.
          in_memory: whether all examples are kept in memory.
          shard: the examples to keep of each task.

        Raises:
          ValueError: a batch cannot be divided among the devices.
        """
        self.check_batch_size(dataset.batch_size)
        files = settings_lib.data_files(dataset)
        initializer = None if "PROMPT_FILE" in free else self.prompt_initializer
        with fingerprints.unchanged(files):
            settings = settings_lib.read(
                config_text, free, files, self.vocabulary, initializer, self.model
            ).with_labels(self.labels)
            digest = state.base_digest(self.model, self.checkpoint)
            settings = settings.with_checkpoint(self.checkpoint, digest)
            tasks = self.open_tasks(dataset, limit, in_memory=in_memory)
        if shard != slice(None):
            tasks = [dataclasses.replace(task, examples=task.examples[shard]) for task in tasks]
        if dataset.name is not None:
            settings = settings.with_tasks({}, tasks)
        return tasks, settings

    def load(self, seed: int = 0) -> predictor.Predictor:
        """Reads the weights onto the devices. `seed` is for decoders that sample."""
        loaded = state.load_model(
            self.model,
            self.vocabulary,
            checkpoint=self.checkpoint,
            prompt_initializer=self.prompt_initializer,
            num_partitions=self.num_partitions,
        )
        return predictor.Predictor(loaded, seed)


def ranking_settings(model: model_lib.EncoderDecoderModel) -> dict[str, Any]:
    """Returns arguments of `pipeline.evaluation_tasks` for a LabelRanking; {} for other decoders."""
    decoder = model.decoder
    if not isinstance(decoder, decoding.LabelRanking):
        return {}
    calibrated = decoder.normalization == "calibration"
    return {"ranked_labels": decoder.labels, "calibrated": calibrated}

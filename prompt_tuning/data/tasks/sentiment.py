"""IMDB and SST-2 for recycled prompts: labels that are generated, or ranked; held-out validation."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from prompt_tuning.data import (
    classification,
    glue_files,
    metrics,
    originals,
    ranking,
    registry,
    text_files,
    variants,
)

VERBALIZERS = (("0", "1"), ("negative", "positive"))
HELD_OUT = 1000
_TRAIN = {"train": f"train[:-{HELD_OUT}]", "validation": f"train[-{HELD_OUT}:]"}


def read_part(
    folder: epath.Path, split: str, read: originals.Reader, parts: Mapping[str, str]
) -> Sequence[Mapping[str, Any]]:
    """The examples that TFDS calls `parts[split]`, such as "train[:-1000]", of original files."""
    part, _, cut = parts[split].partition("[")
    examples = list(read(folder, part))
    if not cut:
        return examples
    return examples[:-HELD_OUT] if cut.startswith(":") else examples[-HELD_OUT:]


def _register(
    name: str,
    labels: Sequence[str],
    text_steps: Sequence[Callable],
    source: Callable[[Mapping[str, str]], originals.Source],
    test_split: str,
    rank_metrics: Sequence[Callable],
) -> None:
    """NAME_train, NAME_test and NAME_test_rc, whose labels are ranked."""
    test = source({"validation": test_split})
    for kind, data in {"train": source(_TRAIN), "test": test}.items():
        registry.add_task(f"{name}_{kind}", data, text_steps, metric_fns=[metrics.accuracy])
    registry.add_task(
        f"{name}_test_rc",
        test,
        [*text_steps, functools.partial(ranking.candidates, labels=labels)],
        postprocess_fn=ranking.candidate,
        metric_fns=rank_metrics,
    )
    variants.add_mixture(name, [f"{name}_{kind}" for kind in ("train", "test", "test_rc")], 1.0)
    variants.add_mixture(f"{name}_eval", [f"{name}_{kind}" for kind in ("test", "test_rc")], 1.0)


def _imdb(parts: Mapping[str, str]) -> originals.Source:
    return originals.Source(
        "imdb_reviews/plain_text:1.0.0",
        read=functools.partial(read_part, read=text_files.read_imdb, parts=parts),
        features={"text": "string", "label": "int64"},
        splits=parts,
    )


def _sst2(parts: Mapping[str, str]) -> originals.Source:
    read = functools.partial(glue_files.read, "sst2")
    return originals.Source(
        "glue/sst2:2.0.0",
        read=functools.partial(read_part, read=read, parts=parts),
        features=glue_files.DATA_SETS["sst2"].features,
        splits=parts,
    )


for _labels in VERBALIZERS:
    _format = functools.partial(
        classification.text_to_label, keys={"text": ""}, label_names=_labels
    )
    _normed = [ranking.normed_rank_accuracy] if _labels == ("0", "1") else []
    _register(
        f"pr:imdb_v100_{'_'.join(_labels)}_verbalizers",
        _labels,
        [_format],
        _imdb,
        "test",
        [ranking.rank_accuracy, *_normed],
    )
_LABELS = ("negative", "positive")
_register(
    "pr:glue_sst2_v200",
    _LABELS,
    [
        functools.partial(
            classification.text_to_label, keys={"sentence": "sentence:"}, label_names=_LABELS
        )
    ],
    _sst2,
    "validation",
    [ranking.rank_accuracy],
)

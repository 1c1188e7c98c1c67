"""Summarization of news: XSum and CNN/DailyMail."""

import functools
from collections.abc import Sequence

from prompt_tuning.data.files import originals, text_files
from prompt_tuning.data.tasks import registry
from prompt_tuning.data.text import formats, rouge

SPLITS = ("train", "validation", "test")


def register(
    name: str,
    tfds_name: str,
    source_key: str,
    target_key: str,
    *,
    splits: Sequence[str] = SPLITS,
    prefix: str = "summarize:",
    samples_name: str | None = None,
) -> None:
    """Registers a task "PREFIX TEXT" -> summary with ROUGE and, if named, samples of predictions."""
    columns = {source_key: "string", target_key: "string"}
    registry.add_task(
        name,
        originals.Source(
            tfds_name,
            read=functools.partial(text_files.read_columns, columns=columns),
            features=columns,
            splits=splits,
        ),
        [
            functools.partial(
                formats.summary, source_key=source_key, target_key=target_key, prefix=prefix
            )
        ],
        metric_fns=[rouge.rouge],
        samples_name=samples_name,
        show_wrong=False,
    )


register("xsum_v110_examples", "xsum:1.1.0", "document", "summary", samples_name="xsum")
register(
    "cnn_dailymail_v310_examples",
    "cnn_dailymail:3.1.0",
    "article",
    "highlights",
    samples_name="cnn_dailymail",
)

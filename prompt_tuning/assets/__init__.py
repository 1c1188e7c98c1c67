"""Files that ship with the package: the model t5_mini and the data set reviews."""

import importlib.resources

# Names of models.
MODELS = ("t5_mini",)


def path(name: str) -> str:
    """The path of an embedded file or folder, e.g. "t5_mini" or "reviews/train.tsv"."""
    return str(importlib.resources.files(__name__) / name)

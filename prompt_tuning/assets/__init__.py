"""Files that ship with the package: the model t5_mini and the data set reviews."""

import importlib.resources

MODELS = ("t5_mini",)  # names for `load_model`


def path(name: str) -> str:
    """Returns the path of a file or folder of this package, such as "reviews/train.tsv"."""
    return str(importlib.resources.files(__name__) / name)

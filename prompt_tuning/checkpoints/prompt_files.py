"""What training adds to a base model, on disk, with its card `<name>.json`.

A prompt that is all is `<name>.npy` [P, D] float32; what methods of several parameters add is
`<name>.npz`, an array for each path. Which of the two a file is, its name says: .npz, or else.
A folder that PEFT wrote a prompt to is read in place of a file.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from prompt_tuning.checkpoints import atomic
from prompt_tuning.checkpoints import digests as digests_lib
from prompt_tuning.checkpoints.formats import peft, weight_files
from prompt_tuning.methods import initializers

SUFFIX, SUFFIX_OF_LEAVES = ".npy", ".npz"
# How many times its size a .npz file may unpack to.
LARGEST_RATIO = 100
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def save(
    path: epath.PathLike, prompt: Float[Array | np.ndarray, "P D"], card: Mapping[str, Any]
) -> None:
    """Writes the prompt and its card, each whole or not at all.

    Args:
      path: ends with .npy; the card lies beside it with .json.
      prompt: the table.
      card: what the prompt belongs to and how good it is; JSON values.
    """
    path = epath.Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(
            f"prompt file name {path.name!r} does not end in .npy; expected <name>.npy. Rename it."
        )
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(prompt, np.float32), allow_pickle=False)
    _write_both(path, buffer.getvalue(), card)


def save_leaves(
    path: epath.PathLike, leaves: Mapping[str, Array | np.ndarray], card: Mapping[str, Any]
) -> None:
    """Writes all that methods add to a model, and the card, each whole or not at all.

    Args:
      path: ends with .npz; the card lies beside it with .json.
      leaves: {path of the parameter: array}.
      card: as of `save`; its "length" is the P that `length` reads.
    """
    path = epath.Path(path)
    if path.suffix != SUFFIX_OF_LEAVES:
        raise ValueError(
            f"file name {path.name!r} of several parameters does not end in .npz; expected "
            "<name>.npz. Rename it."
        )
    buffer = io.BytesIO()
    arrays = {name: np.asarray(leaf, np.float32) for name, leaf in leaves.items()}
    np.savez(buffer, allow_pickle=False, **arrays)
    _write_both(path, buffer.getvalue(), card)


def _write_both(path: epath.Path, content: bytes, card: Mapping[str, Any]) -> None:
    text = json.dumps(dict(card), indent=2) + "\n"
    atomic.write(path, content)
    atomic.write(_card_path(path), text.encode())


def load(path: epath.PathLike, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Reads a prompt as float32 [P, D], from a file of any float dtype.

    Args:
      path: a .npy file; the suffix may be absent, as in the paper authors' files. Or an adapter.
      shape: (P, D) that the model has, to be checked.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: not a .npy file, pickled, of another shape, or with values that are not finite.
    """
    if _is_of_leaves(path):
        held = ", ".join(f"{name} {leaf.shape}" for name, leaf in load_leaves(path).items())
        raise ValueError(
            f"PROMPT_FILE {path} holds {held}; expected a single prompt in a .npy file. Parameters "
            "of other methods cannot be compared or recycled: set PROMPT_FILE to a prompt."
        )
    adapter = peft.is_adapter(path)
    prompt = peft.read_prompt(path) if adapter else read_table(path, "PROMPT_FILE")
    if shape is not None and prompt.shape != tuple(shape):
        raise ValueError(
            f"PROMPT_FILE {path} holds a prompt of shape {prompt.shape}; expected {tuple(shape)}, "
            f"as the model has. Set PROMPT_LENGTH={prompt.shape[0]} and the gin file of a model of "
            f"width {prompt.shape[1]}, or another PROMPT_FILE."
        )
    return prompt


def read_table(path: epath.PathLike, setting: str) -> np.ndarray:
    """Reads a table of a .npy file as float32 [N, D]; `setting` named it. Raises as `load`."""
    path, content = _content(path, setting)
    try:
        table = _array(content)
    except Exception as error:  # numpy reads the header as a Python literal: whatever that raises.
        raise ValueError(
            f"{setting} {path} is not a .npy file of numbers ({error}); expected floats [P, D]. "
            f"Set {setting} to a prompt file."
        ) from error
    if table.ndim != 2 or not _is_float(table):
        raise ValueError(
            f"{setting} {path} holds {table.dtype} {table.shape}; expected floats [P, D]. Set "
            f"{setting} to a prompt file."
        )
    return _finite(table, f"{setting} {path}")


def load_leaves(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Reads {path of the parameter: float32 array}. Raises as `load`."""
    path, content = _content(path, "PROMPT_FILE")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > LARGEST_RATIO * len(content):
                raise ValueError(f"{unpacked} bytes compressed to {len(content)}")
            leaves = {
                name.removesuffix(SUFFIX): _array(archive.read(name)) for name in archive.namelist()
            }
    except Exception as error:  # Of the zip file, of each of its ways to pack, of numpy.
        raise ValueError(
            f"PROMPT_FILE {path} is not a .npz file of numbers ({error}); expected float arrays. "
            "Copy it again, or set another PROMPT_FILE."
        ) from error
    if strange := sorted(name for name, leaf in leaves.items() if not _is_float(leaf)):
        raise ValueError(
            f"PROMPT_FILE {path}: {', '.join(strange)} are not floats; expected float arrays. Set "
            "PROMPT_FILE to a file that a run wrote."
        )
    return {name: _finite(leaf, f"PROMPT_FILE {path}") for name, leaf in leaves.items()}


def _content(path: epath.PathLike, setting: str) -> tuple[epath.Path, bytes]:
    path = check_file(path, setting)
    return path, path.read_bytes()


def check_file(path: epath.PathLike, setting: str) -> epath.Path:
    """Raises FileNotFoundError or ValueError where there is no file; `setting` named it."""
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{setting} {path} does not exist; expected a file. Correct {setting}."
        )
    if path.is_dir():
        adapters = describe_adapters(path)
        expected = (
            f"a file, such as {path}/prompts/best{SUFFIX}, or as PROMPT_FILE a PEFT adapter (a "
            f"folder with {peft.CONFIG}). Set {setting} to one."
        )
        raise ValueError(
            f"{setting} {path} is a folder{adapters}; expected "
            + (f"one prompt. Set {setting} to one of them." if adapters else expected)
        )
    return path


def describe_adapters(folder: epath.Path) -> str:
    """Text for a message: the adapters below a folder, or ""."""
    found = [f"{adapter}" for adapter in peft.find_adapters(folder)]
    more = f" and {len(found) - 4} more" * (len(found) > 4)
    return f" with the PEFT adapters {', '.join(found[:4])}{more}" if found else ""


def _array(content: bytes) -> np.ndarray:
    """A view of a .npy file's values: nothing is allocated by what its header says."""
    header = io.BytesIO(content)
    version = np.lib.format.read_magic(header)
    if version not in HEADERS:
        raise ValueError(f"version {version} of the .npy format is not supported")
    shape, is_fortran, dtype = HEADERS[version](header)
    values = np.frombuffer(content, dtype, offset=header.tell())
    array = values.reshape(shape, order="F" if is_fortran else "C")
    # numpy's name for bfloat16
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16


def _finite(array: np.ndarray, file: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # of float64: infinite is said below
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{file} has NaN or infinite values; expected finite values. The run that wrote it "
            "diverged: use the prompt of an earlier step."
        )
    return array


# PROMPT_FILE: a file, several by the names that examples tell their prompt by, or none.
PromptFile = epath.PathLike | Mapping[str, epath.PathLike] | None


def names(path: PromptFile | Sequence[epath.PathLike]) -> tuple[str, ...]:
    """Of several prompts; () of one, and of a list of prompts to evaluate in turn."""
    return tuple(path) if isinstance(path, Mapping) else ()


def initializer(
    path: PromptFile,
) -> initializers.FromArray | initializers.FromLeaves | None:
    """What gives a model the content of a file, or of several in one table; None of none.

    Raises as `load`.
    """
    if path is None:
        return None
    if isinstance(path, Mapping):
        return _of_several(path)
    digest = base_model_digest(path)
    if _is_of_leaves(path):
        return initializers.FromLeaves(load_leaves(path), digest)
    return initializers.FromArray(load(path), digest)


def _of_several(paths: Mapping[str, epath.PathLike]) -> initializers.FromArray:
    """Prompts below each other, in the order of their names."""
    # A base model that no card names may be any.
    digests = {name: base_model_digest(path) for name, path in paths.items()}
    known = next(filter(None, digests.values()), None)
    tables, kinds = {}, {}
    for name, path in paths.items():
        tables[name] = load(path)
        kinds[name] = (
            f"shape {tables[name].shape}, place {place(path)!r}, base model "
            f"{digests[name] or known}"
        )
    if len(set(kinds.values())) != 1:
        lines = "\n  ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise ValueError(
            f"the prompts of PROMPT_FILE {dict(paths)} cannot be combined:\n  {lines}\nExpected the same shape, "
            "place and base model for all. Remove those that differ."
        )
    return initializers.FromArray(np.concatenate(list(tables.values())), known)


def length(path: PromptFile) -> int:
    """P of the prompt in a file; 0 where there is none in it. A .npz file's card says it.

    Raises:
      ValueError: no file is given, or it is as of `load`.
    """
    if path is None:
        raise ValueError(
            "PROMPT_FILE is not set, and the model has a prompt; expected a prompt file. Set "
            "PROMPT_FILE to it, or PROMPT=None to use the model without a prompt."
        )
    path = _one(path)
    if not _is_of_leaves(path):
        return load(path).shape[0]
    card = read_card(path)
    if "length" not in card:
        path = epath.Path(path)
        raise ValueError(
            f"PROMPT_FILE {path} has no card {_card_path(path).name} with its prompt length; "
            "expected the card in the same folder. Copy it there."
        )
    return card["length"]


def _is_of_leaves(path: epath.PathLike) -> bool:
    return epath.Path(path).suffix == SUFFIX_OF_LEAVES


def _one(path: PromptFile) -> epath.PathLike | None:
    """The first of several prompts, which are alike (see `_of_several`)."""
    if isinstance(path, Mapping):
        if not path:
            raise ValueError(
                "PROMPT_FILE is empty; expected at least one prompt. Set PROMPT_FILE to a file."
            )
        return next(iter(path.values()))
    return path


def place(path: PromptFile) -> str | tuple[int, ...]:
    """Where the prompt of a file stands in an input, by its card; "prefix" where no card says it."""
    told = read_card(_one(path)).get("place", "prefix")
    return tuple(told) if isinstance(told, list) else told


def labels(path: PromptFile) -> dict[str | None, Sequence[str]]:
    """{name: the labels that a prompt was trained with, by its card}; None names a single prompt."""
    paths = path if isinstance(path, Mapping) else {None: path}
    return {name: tuple(read_card(each).get("labels") or ()) for name, each in paths.items()}


def base_model_digest(path: epath.PathLike) -> str | None:
    """Digest of the model that a prompt file was trained with; None where no card says it.

    None too for a card of an earlier version, which had the name of the folder in its digest.
    """
    return comparable_digest(read_card(path))


def comparable_digest(card: Mapping[str, Any]) -> str | None:
    """See `base_model_digest`."""
    digest = card.get("base_model_digest")
    return digest if digests_lib.is_comparable(digest) else None


def read_card(path: epath.PathLike | None) -> dict[str, Any]:
    """The card beside a prompt file; {} where there is none, of no file and of an adapter too."""
    if path is None or peft.is_adapter(path):
        return {}
    card = _card_path(epath.Path(path))
    if not card.exists():
        return {}
    try:
        content = dict(json.loads(card.read_text()))
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{card} is not a JSON object ({error}); expected the card of a prompt. Restore or "
            "delete it."
        ) from error
    for name, is_fit in CARD.items():
        if content.get(name) is not None and not is_fit(content[name]):
            raise ValueError(
                f"{card} has {name} {weight_files.shown(content[name])}, which is not a valid "
                "value; expected the card as it was saved. Restore or delete it."
            )
    return content


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_place(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(map(_is_size, value)))


# What is read of a card.
CARD = {
    "length": _is_size,
    "step": _is_size,
    "place": _is_place,
    "base_model_digest": lambda value: isinstance(value, str),
    "labels": lambda value: isinstance(value, list) and all(isinstance(x, str) for x in value),
}


def _card_path(path: epath.Path) -> epath.Path:
    name = path.name.removesuffix(SUFFIX).removesuffix(SUFFIX_OF_LEAVES)
    return path.parent / f"{name}.json"

"""A prompt put into a T5X checkpoint, as the paper authors' code keeps it."""

from etils import epath

from prompt_tuning.checkpoints import base_model, lazy_arrays, prompt_files
from prompt_tuning.checkpoints.formats import t5x

# The embedding of a T5, and of one without encoder -> where the paper authors' modules keep its prompt:
# a prompt's parameter in a prompt's table in the stack's prompt.
PROMPTS = {
    "token_embedder/embedding": "encoder/prompt/prompt/prompt",
    "decoder/token_embedder/embedding": "decoder/prompt/prompt/prompt",
}


def splice(
    checkpoint: epath.PathLike,
    prompt_file: epath.PathLike,
    output_dir: epath.PathLike,
    *,
    dtype: str = "float32",
    step: int | None = None,
) -> epath.Path:
    """Writes a T5X native checkpoint of a model with a prompt, without optimizer state.

    Scanned layers stay scanned, so that the program that wrote the checkpoint can read the result.

    Args:
      checkpoint: the model, in any format; a prompt in it is replaced.
      prompt_file: prompt, [P, D].
      output_dir: parent of the new folder checkpoint_<step>.
      dtype: dtype of the stored weights.
      step: step of the new checkpoint; None for that of `checkpoint`.

    Returns:
      The folder.

    Raises:
      FileExistsError: the folder exists.
      ValueError: the prompt does not fit the model, or the step is unknown.
    """
    if step is None:
        step = base_model.read_step(checkpoint)
    if step is None:
        raise ValueError(
            f"{checkpoint} does not contain its step, which is part of a T5X checkpoint's name; "
            "expected the step as an option. Pass it with --step."
        )
    prompt = prompt_files.load(prompt_file)
    folder = epath.Path(output_dir) / f"checkpoint_{step}"
    with base_model.opened(checkpoint) as stored:
        embedding = next((path for path in PROMPTS if path in stored), None)
        if embedding is None:
            raise ValueError(
                f"{checkpoint} has none of {', '.join(PROMPTS)}; expected the checkpoint of a T5. "
                "Choose such a checkpoint."
            )
        width = stored[embedding].shape[1]
        if prompt.shape[1] != width:
            raise ValueError(
                f"the prompt {prompt_file} has shape {prompt.shape}, and the model {checkpoint} "
                f"has width {width}; expected the same width. Choose the model that the prompt was "
                "trained with."
            )
        kept = {path: leaf for path, leaf in stored.items() if "/prompt/" not in path}
        kept[PROMPTS[embedding]] = lazy_arrays.from_numpy(prompt)
        t5x.save(folder, kept, step=step, dtype=dtype)
    return folder

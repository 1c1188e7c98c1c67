"""A prompt put into a T5X checkpoint, as the paper authors' code keeps it."""

from etils import epath

from prompt_tuning.checkpoints import base_model, leaves, prompt_files, t5x

EMBEDDING = "token_embedder/embedding"
# Of the paper authors' modules: a prompt's parameter in a prompt's table in the encoder's prompt.
PROMPT = "encoder/prompt/prompt/prompt"


def splice(
    checkpoint: epath.PathLike,
    prompt_file: epath.PathLike,
    output_dir: epath.PathLike,
    *,
    dtype: str = "float32",
) -> epath.Path:
    """Writes a T5X native checkpoint of a model with its prompt, without an optimizer's state.

    Scanned layers stay scanned, so that the program that wrote the checkpoint reads this one.

    Args:
      checkpoint: the model, in any format that tells its step. A prompt in it is replaced.
      prompt_file: [P, D].
      output_dir: where the folder checkpoint_<step> is made.
      dtype: of the stored weights.

    Returns:
      The folder.

    Raises:
      FileExistsError: the folder exists.
      ValueError: the prompt is not one of this model, or the step is not told.
    """
    step = base_model.read_step(checkpoint)
    if step is None:
        raise ValueError(
            f"{checkpoint} does not tell its step, which is a part of a T5X checkpoint's name; choose a "
            "checkpoint in T5X's format"
        )
    prompt = prompt_files.load(prompt_file)
    folder = epath.Path(output_dir) / f"checkpoint_{step}"
    with base_model.opened(checkpoint) as stored:
        width = stored[EMBEDDING].shape[1] if EMBEDDING in stored else None
        if prompt.shape[1] != width:
            raise ValueError(
                f"the prompt {prompt_file} is {prompt.shape}, vectors of the model {checkpoint} have "
                f"{width} numbers; choose the model that the prompt was trained with"
            )
        t5x.save(folder, {**stored, PROMPT: leaves.of_array(prompt)}, step=step, dtype=dtype)
    return folder

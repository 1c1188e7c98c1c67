"""What is done to the model's text before it is compared with the target."""


def strip(text: str, **_example) -> str:
    """The text without white space around it."""
    return text.strip()

"""`python -m prompt_tuning` is the command `prompt-tuning`."""

from prompt_tuning.cli import main as cli

if __name__ == "__main__":
    cli.main()

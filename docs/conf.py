"""Sphinx configuration: the site has the repository's Markdown files and the docstrings of docs/api.md.

The source folder is the repository, so links between files are the same on the site and on GitHub.
"""

import prompt_tuning

project = "prompt-tuning"
version = release = prompt_tuning.__version__
author = "the prompt-tuning contributors"
html_theme = "furo"
html_title = f"{project} {version}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "prompt_tuning/assets/*/README.md"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings state shapes and defaults
napoleon_use_ivar = True

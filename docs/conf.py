"""How Sphinx makes the site: the repository's Markdown where it lies, and docs/api.md from docstrings.

The source folder is the repository, so that links between files mean the same here and there.
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
autodoc_typehints = "none"  # shapes and defaults are told in the text
napoleon_use_ivar = True

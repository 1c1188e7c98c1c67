"""Metadata is in pyproject.toml; only the mapping of gin/ into the package is here.

gin/ has no __init__.py, so that `import gin` in the checkout finds the library; in
the wheel its files are the data of the package directory prompt_tuning/gin_configs.
"""

import setuptools

setuptools.setup(
    packages=[
        # Folders of data are packages too: without __init__.py, hence "namespace".
        *setuptools.find_namespace_packages(include=["prompt_tuning*"]),
        "prompt_tuning.gin_configs",
        "prompt_tuning.gin_configs.models",
        "prompt_tuning.gin_configs.models.sizes",
        "prompt_tuning.gin_configs.prompts",
        "prompt_tuning.gin_configs.decoding",
        "prompt_tuning.gin_configs.optimizers",
        "prompt_tuning.gin_configs.runs",
        "prompt_tuning.gin_configs.studies",
        "prompt_tuning.gin_configs.t5x",
        "prompt_tuning.gin_configs.tasks",
    ],
    package_dir={"prompt_tuning.gin_configs": "gin"},
    package_data={"": ["*"]},
)

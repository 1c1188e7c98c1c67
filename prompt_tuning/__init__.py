"""Prompt tuning for T5 on JAX (Lester et al., 2021).

From Python, `import prompt_tuning as pt`:

    model = pt.load_model("t5_mini")
    prompt = pt.tune(model, [("A dull film.", "negative"), ("What a cast!", "positive")])
    model.generate(["A great film."], prompt=prompt)

Names are imported on first use, so that importing the package is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Answer": "api.model",
    "BeamSearch": "models.decoding",
    "Greedy": "models.decoding",
    "LabelRanking": "models.decoding",
    "Model": "api.model",
    "Prompt": "api.prompt",
    "Sampling": "models.decoding",
    "T5Config": "models.config",
    "load_model": "api.model",
    "load_prompt": "api.prompt",
    "tune": "api.tuning",
}
__all__ = list(_HOMES)

if TYPE_CHECKING:
    from prompt_tuning.api.model import Answer as Answer
    from prompt_tuning.api.model import Model as Model
    from prompt_tuning.api.model import load_model as load_model
    from prompt_tuning.api.prompt import Prompt as Prompt
    from prompt_tuning.api.prompt import load_prompt as load_prompt
    from prompt_tuning.api.tuning import tune as tune
    from prompt_tuning.models.config import T5Config as T5Config
    from prompt_tuning.models.decoding import BeamSearch as BeamSearch
    from prompt_tuning.models.decoding import Greedy as Greedy
    from prompt_tuning.models.decoding import LabelRanking as LabelRanking
    from prompt_tuning.models.decoding import Sampling as Sampling
else:

    def __getattr__(name: str) -> Any:
        """Imports a name of __all__."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Prompt tuning for T5 on JAX (Lester et al., 2021).

From Python, `import prompt_tuning as pt`:

    model = pt.load_model("t5_mini")
    prompt = pt.tune(model, [("A dull film.", "negative"), ("What a cast!", "positive")])
    model.generate(["A great film."], prompt=prompt)

What is named here is imported when it is used, so that importing the package costs nothing.
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
    from prompt_tuning.api import model as _model
    from prompt_tuning.api import prompt as _prompt
    from prompt_tuning.api import tuning as _tuning
    from prompt_tuning.models import config as _config
    from prompt_tuning.models import decoding as _decoding

    Answer = _model.Answer
    BeamSearch = _decoding.BeamSearch
    Greedy = _decoding.Greedy
    LabelRanking = _decoding.LabelRanking
    Model = _model.Model
    Prompt = _prompt.Prompt
    Sampling = _decoding.Sampling
    T5Config = _config.T5Config
    load_model = _model.load_model
    load_prompt = _prompt.load_prompt
    tune = _tuning.tune
else:

    def __getattr__(name: str) -> Any:
        """What is in __all__, imported now."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""What tests of data share: a registry that is as before."""

import pytest
import seqio

from prompt_tuning.data import sources


@pytest.fixture
def clean():
    """What a test registers is gone afterwards, also where it fails."""
    sources.register_all()
    registries = (seqio.TaskRegistry, seqio.MixtureRegistry)
    before = [set(registry.names()) for registry in registries]
    yield
    for registry, names in zip(registries, before, strict=True):
        for name in set(registry.names()) - names:
            registry.remove(name)

"""Which adapters are tested: in an environment of `./run adapters` its own, elsewhere those that need no framework."""

import os
from pathlib import Path

EVERYWHERE = {"dogpile", "pytest_plugin"}
HERE = {os.environ["STATESTORE_ADAPTER"]} if "STATESTORE_ADAPTER" in os.environ else EVERYWHERE

collect_ignore = [
    folder.name for folder in Path(__file__).parent.iterdir() if folder.is_dir() and folder.name not in HERE
]

if "STATESTORE_ADAPTER" in os.environ:
    from tests.adapters.no_skips import pytest_sessionfinish as pytest_sessionfinish

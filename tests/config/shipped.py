"""Where the settings lie that ship with crfl."""

from pathlib import Path

import crfl

CONFIGS = Path(crfl.__file__).parents[1] / "configs"

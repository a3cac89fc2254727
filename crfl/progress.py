"""Progress bars: on terminals and in notebooks, never into files and pipes."""

from __future__ import annotations

import sys
from typing import Any


def bar(*args: Any, shown: bool = True, **options: Any) -> Any:
    """tqdm with these arguments, if `shown` and if there is somebody to see it."""
    from tqdm.auto import tqdm

    notebook = "ipykernel.zmqshell" in sys.modules
    terminal = sys.stderr is not None and sys.stderr.isatty()
    make: Any = tqdm
    return make(*args, disable=not (shown and (terminal or notebook)), **options)

"""Draws the pictures of the documentation: runs the examples of gallery.md in docs/images."""

import os
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
DOCS = Path(__file__).parent


def main() -> None:
    """Run every example; each saves its picture."""
    os.chdir(DOCS / "images")
    for code in re.findall(r"```python\n(.*?)```", (DOCS / "gallery.md").read_text(), re.DOTALL):
        exec(compile(code, "gallery.md", "exec"), {})


if __name__ == "__main__":
    main()

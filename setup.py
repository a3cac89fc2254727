"""The packages of the wheel; everything else is in pyproject.toml.

Settings and figure scripts stay at the top of the repository, where readers look for them, and are installed inside the
package, where `crfl run mnist` and `crfl reproduce` find them.
"""

from setuptools import find_packages, setup

SHIPPED = {
    "crfl.configs": "configs",
    "crfl.experiments": "experiments",
    "crfl.experiments.malicious_clients": "experiments/malicious_clients",
}

setup(
    packages=[*find_packages(include=["crfl", "crfl.*"]), *SHIPPED],
    package_dir=SHIPPED,
    package_data={"crfl": ["py.typed"], "crfl.configs": ["*.yaml", "*/*.yaml"]},
)

"""python -m crfl.cli"""

from crfl.cli import main

main()

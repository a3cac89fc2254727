"""Models as flat parameter vectors."""

"""Lets ``python -m pipeline`` stand for ``tacit``, as launchers need it."""

from pipeline.cli.main import entry

if __name__ == "__main__":
    entry()

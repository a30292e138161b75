"""The ``retune`` command: the same assets as in the UI, run from a terminal."""

"""The ``retune`` command: one module for each group of commands, ``main`` for the whole."""

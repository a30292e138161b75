"""Who wrote the questions of an eval set: the values of ``questions_by`` in its summary."""

STRUCTURE = "structure"
"""Made from the structure of the documents."""

MODEL = "model"
"""Written by a chat model."""

OWN = "own"
"""The user's own, whoever wrote them."""

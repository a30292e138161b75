"""Texts of several lengths and scripts, for checks that have none of the user's."""

SAMPLE_TEXTS = (
    "a",
    "How is the pressure in a sealed vessel measured?",
    "The quick brown fox jumps over the lazy dog. " * 12,
    "naïve café, 東京, 12.5 °C — punctuation and other scripts",
)

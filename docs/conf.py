"""Sphinx's configuration of the documentation site: ``make docs``."""

project = "Retune"
copyright = "the Retune authors, Apache-2.0"
extensions = ["myst_parser"]
myst_heading_anchors = 4
html_theme = "alabaster"
html_theme_options = {"description": "Embedding models, fine-tuned to your documents", "page_width": "70rem"}
html_show_sphinx = False
html_copy_source = False

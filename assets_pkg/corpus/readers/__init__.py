"""Readers of the documents that people have: each makes Markdown of a file, in a process of its own that may die."""

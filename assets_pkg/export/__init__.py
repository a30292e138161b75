"""From a fine-tuned checkpoint to a folder the embedding server can serve, and proof that they agree."""

"""From a fine-tuned checkpoint to a folder for the embedding server, and the check that both give equal vectors."""

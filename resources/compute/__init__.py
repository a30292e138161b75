"""Where a stage runs: here, or as a job of an executor that ``env.toml`` describes."""

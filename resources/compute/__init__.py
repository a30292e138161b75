"""Where a stage runs: in this process, or as a job of a compute target that ``env.toml`` describes."""

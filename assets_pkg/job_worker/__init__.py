"""What runs in a job: ``python -m assets_pkg.job_worker FOLDER``."""

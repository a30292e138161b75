"""``python -m assets_pkg.cli``."""

from assets_pkg.cli.main import main

if __name__ == "__main__":
    main()

"""`python -m knowngood` is `knowngood`. Where the packages of the command line are not installed, one line says so."""

from __future__ import annotations

import sys

from knowngood.config.dependencies import without_package


def main() -> None:
    """Run the command line of this process."""
    try:
        from knowngood.cli import main as run
    except ModuleNotFoundError as error:
        line = without_package(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()

"""The command ``penstock``: every error ends in a sentence, none in a traceback."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; ends the process."""
    from penstock.cli.main import run  # noqa: PLC0415 - `import penstock.__main__` stays cheap

    status = run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


if __name__ == "__main__":
    main()

"""Where `aiok` begins: without words the app opens, at once; all else is the command line."""

from __future__ import annotations

import sys


def main() -> int:
    """The exit code of the app or of the command line."""
    if len(sys.argv) == 1:
        from aiok_tui.app import main as open_app

        return open_app()
    from aiok_tui.cli import main as run_command

    return int(run_command() or 0)


if __name__ == "__main__":
    sys.exit(main())

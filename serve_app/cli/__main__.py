"""``python -m serve_app.cli`` is ``wan-serve``."""

import sys

from serve_app.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())

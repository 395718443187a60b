"""`python -m meshgpt`: the same as the command `meshgpt`."""

import sys

from meshgpt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m imagesprint` is `imagesprint`."""

import sys

from imagesprint.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

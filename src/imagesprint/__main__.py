"""`python -m imagesprint` is `imagesprint`."""

if __name__ == "__main__":  # worker processes import this module too: for them, nothing more
    import sys

    from imagesprint.cli.main import main

    sys.exit(main())

"""`python -m imagesprint` is `imagesprint`."""

if __name__ == "__main__":  # worker processes import this module too: for them, nothing more
    import os
    import sys

    # `python -m` puts the current folder first: a random.py or torch/ of the user's there would be ours and our ranks'.
    if not sys.flags.safe_path and os.path.isdir(sys.path[0]) and os.path.samefile(sys.path[0], os.curdir):
        del sys.path[0]

    from imagesprint.cli.main import main

    sys.exit(main())

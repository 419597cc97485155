"""Where copies of what lies in stores are kept on this machine."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of all copies: IMAGESPRINT_CACHE, else imagesprint in XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("IMAGESPRINT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagesprint"

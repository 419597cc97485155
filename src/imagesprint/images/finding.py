"""Finding images that lie as files in folders: what is litter, and what is an image by its name."""

import re
from typing import Final

# Of the formats that `images.decoding` opens.
# fmt: off
SUFFIXES: Final = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".gif", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm",
))
# fmt: on

# What systems and programs leave beside people's files, thumbnails of these among them; in any case of letters.
_LITTER = re.compile(
    r"\..*"  # hidden, such as .DS_Store, ._photo.jpg, .ipynb_checkpoints, .Trash-1000, .@__thumb
    r"|__macosx|icon\r|network trash folder|temporary items"  # macOS
    r"|(eh)?thumbs(_vista)?\.db|desktop\.ini|\$recycle\.bin|recycle[rd]"  # Windows
    r"|system volume information|found\.\d{3}"
    r"|@eadir|.*@syno(eastream|resource)|#recycle|#snapshot|@sharebin|@tmp"  # Synology
    r"|@recycle|@recently-snapshot|@__thumb|~snapshot"  # QNAP, NetApp
    r"|picasa\.ini|zbthumbnail\.info|bridgecache|bridgecachet|_vti_cnf"  # Picasa, Zoner, Adobe Bridge, FrontPage
    r"|lost\+found|__pycache__",
    re.IGNORECASE | re.DOTALL,
)


def is_litter(name: str) -> bool:
    """Return whether a file or folder of that name is none of a data set's: neither a class nor an image.

    `name` is one part of a path; what lies in a folder that is litter is litter too.
    """
    return _LITTER.fullmatch(name) is not None

"""Which decoder is at work: the native one where it is installed, unless IMAGESPRINT_DECODER names another.

That variable of the environment is "native", "native-portable" (without processor-specific code, and with libjpeg's own
Huffman decoding, for the same pixels) or "pillow".
"""

import os
from typing import Final

from imagesprint.errors import UsageError
from imagesprint.images.decoding import Decoder, PillowDecoder
from imagesprint.images.native_batches import NativeDecoder
from imagesprint.images.native_library import is_available, library

VARIABLE: Final = "IMAGESPRINT_DECODER"
_PORTABLE: Final = "native-portable"
_CHOICES: Final = ("native", _PORTABLE, "pillow")


def chosen_decoder() -> str:
    """Return what the environment asks for, "" where it leaves the choice open. Raises UsageError if unknown."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen and chosen not in _CHOICES:
        raise UsageError(f"{VARIABLE}={chosen}: there is no such decoder", f"set it to {' or '.join(_CHOICES)}")
    return chosen


def use_native() -> bool:
    """Return whether images are to be decoded natively. Raises UsageError if that is asked for but not installed."""
    chosen = chosen_decoder()
    if chosen.startswith("native"):
        library()
    return chosen != "pillow" and is_available()


def use_portable() -> bool:
    """Return whether the native decoder is to do without processor-specific and own Huffman code. Raises UsageError."""
    return chosen_decoder() == _PORTABLE


def open_decoder(threads: int) -> Decoder:
    """The decoder of this installation or of the user's choice, with `threads` ≥ 1 threads. Raises UsageError."""
    return NativeDecoder(threads, use_portable()) if use_native() else PillowDecoder(threads)


def decoder_name() -> str:
    """Return the `name` of the decoder that `open_decoder` gives. Raises UsageError."""
    return NativeDecoder.name if use_native() else PillowDecoder.name


def describe_decoder() -> str:
    """Return which decoder `open_decoder` gives, and why it is Pillow where it is, for people. Raises UsageError."""
    chosen = chosen_decoder()
    if chosen == "pillow":
        return f"pillow, as {VARIABLE} says"
    try:
        return f"native ({library().ims_resizer(use_portable()).decode()})"
    except UsageError as error:
        if chosen:
            raise
        return f"pillow: {error.what}; {error.hint}"

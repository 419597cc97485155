"""Which decoder an installation has."""

from imagesprint.images.decoding import Decoder, PillowDecoder
from imagesprint.images.native import NativeDecoder, is_available


def open_decoder(threads: int) -> Decoder:
    """The fastest decoder of this installation, with `threads` ≥ 1 threads."""
    return NativeDecoder(threads) if is_available() else PillowDecoder(threads)

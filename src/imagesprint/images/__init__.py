"""Random draws, crop geometry, decoding and encoding of images. No torch."""

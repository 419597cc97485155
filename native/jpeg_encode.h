#ifndef IMS_JPEG_ENCODE_H
#define IMS_JPEG_ENCODE_H

#include "imagesprint.h"

/* Encodes uint8 RGB pixels as a baseline JPEG, 4:2:0, with optimised Huffman tables, into memory of malloc. */
ims_status jpeg_encode(const uint8_t *pixels, int width, int height, int quality, uint8_t **out, int64_t *length,
                       char *message);

#endif

/* Encoding a JPEG row by row: baseline, 4:2:0, with optimised Huffman tables; the bytes that libjpeg-turbo writes.
 *
 * Beside it stand its steps in the order of the data: encode_samples, encode_dct (by encode_quantisation),
 * encode_symbols, and at the end encode_huffman and encode_file. libjpeg itself has no fast way to gather statistics of
 * symbols, on which it spends a third of the time; and these bytes do not depend on which version of it is there. */
#ifndef IMS_JPEG_ENCODE_H
#define IMS_JPEG_ENCODE_H

#include "imagesprint.h"

typedef struct jpeg_encoder jpeg_encoder;

/* Begins an image of 1..65500 pixels a side, with a quality of 1..100. NULL: out of memory. */
jpeg_encoder *jpeg_encoder_create(int width, int height, int quality);

/* Takes the next row, uint8 RGB. IMS_OK or IMS_MEMORY, after which it may only be destroyed; so for the end. */
ims_status jpeg_encoder_push(jpeg_encoder *encoder, const uint8_t *row);

/* Ends the image after its last row; what is returned in `out` is the caller's to free. */
ims_status jpeg_encoder_end(jpeg_encoder *encoder, uint8_t **out, int64_t *length);

void jpeg_encoder_destroy(jpeg_encoder *encoder);

#endif

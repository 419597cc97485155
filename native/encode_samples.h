/* From rows of RGB to what a row of MCUs is made of: Y of each pixel, Cb and Cr of each four. */
#ifndef IMS_ENCODE_SAMPLES_H
#define IMS_ENCODE_SAMPLES_H

#include "buffer.h"

enum { MCU_SIDE = 16, BLOCK_SIDE = 8 }; /* pixels, samples */

typedef struct {
    int width;       /* pixels */
    int rows;        /* of the row of MCUs so far */
    size_t stride;   /* of the arrays: the width in whole MCUs */
    uint8_t *luma;   /* [MCU_SIDE][stride] */
    uint8_t *chroma; /* [BLOCK_SIDE][stride]: of each MCU 8 samples of Cb, then 8 of Cr */
    uint8_t *pair;   /* [2][Cb, Cr][stride]: two rows that are not yet halved */
    buffer memory;   /* of these */
} encode_samples;

/* Makes ready for rows of `width` pixels. IMS_OK or IMS_MEMORY. */
ims_status encode_samples_begin(encode_samples *samples, int width);

/* Takes the next row, uint8 RGB; after MCU_SIDE of them the caller sets `rows` to 0. */
void encode_samples_push(encode_samples *samples, const uint8_t *rgb);

/* Fills up the row of MCUs, of which there is at least one row of pixels; leaves `rows` as it is. */
void encode_samples_fill(encode_samples *samples);

#endif

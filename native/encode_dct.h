/* The forward DCT with quantisation, of two blocks at a time. */
#ifndef IMS_ENCODE_DCT_H
#define IMS_ENCODE_DCT_H

#include <stddef.h>

#include "encode_quantisation.h"

/* Two blocks side by side. */
typedef struct {
    _Alignas(2 * TILE_LANES) int16_t values[8][TILE_LANES];
    uint8_t present[TILE_LANES]; /* of each column: bit y tells whether the value in row y is other than zero */
} encode_tile;

/* Turns 8 rows of 16 samples, `stride` apart, into the quantised coefficients of two blocks. */
void encode_transform(const uint8_t *samples, size_t stride, const encode_divisors *divisors, encode_tile *out);

#endif

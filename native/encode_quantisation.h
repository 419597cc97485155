/* How coarsely a JPEG of some quality keeps its coefficients. */
#ifndef IMS_ENCODE_QUANTISATION_H
#define IMS_ENCODE_QUANTISATION_H

#include <stdint.h>

enum { COEFFICIENTS = 64, TILE_LANES = 16 };

/* The place in a block, 8 * row + column, of each coefficient in the order of the file. */
extern const uint8_t encode_zigzag[COEFFICIENTS];

/* Dividing by the steps as a product of 16 bits: see encode_dct.c. Of two blocks side by side. */
typedef struct {
    uint16_t reciprocal[8][TILE_LANES], correction[8][TILE_LANES], scale[8][TILE_LANES];
} encode_divisors;

typedef struct {
    uint8_t steps[COEFFICIENTS]; /* 8 * row + column, 1..255 */
    encode_divisors divisors;
} encode_quantisation;

/* The standard's example tables, of luma or chroma, scaled as libjpeg does by `quality`, 1..100. */
void encode_quantisation_begin(encode_quantisation *quantisation, int chroma, int quality);

#endif

/* An image's coefficients as the symbols that Huffman coding takes, and how often each of them occurs. */
#ifndef IMS_ENCODE_SYMBOLS_H
#define IMS_ENCODE_SYMBOLS_H

#include "encode_dct.h"
#include "imagesprint.h"

/* Huffman codes, in the order of the file: two for the DC and AC coefficients of Y, two for those of Cb and Cr. */
enum { ENCODE_CODES = 4, ENCODE_ALPHABET = 256, ENCODE_KINDS = ENCODE_CODES * ENCODE_ALPHABET };

/* A symbol: its kind, which is code * ENCODE_ALPHABET + value, in the lower 16 bits, and above them the bits that
 * follow it in the file, as many as its lower 4 bits say. */
typedef uint32_t encode_symbol;

typedef struct {
    encode_symbol *all;
    size_t count, capacity;
    uint64_t frequencies[ENCODE_KINDS];
    int last_dc[3];      /* of Y, Cb and Cr */
    uint8_t sizes[2048]; /* the bits of each number: of a difference of DC coefficients 11 at most */
} encode_symbols;

/* Makes ready for an image; `symbols` is all zeros, and symbols->all the caller's to free. */
void encode_symbols_begin(encode_symbols *symbols);

/* Makes room for `blocks` more. IMS_OK or IMS_MEMORY. */
ims_status encode_symbols_reserve(encode_symbols *symbols, size_t blocks);

/* Adds a block of component 0, 1 or 2: the left (0) or the right (1) one of the tile. */
void encode_symbols_add(encode_symbols *symbols, int component, const encode_tile *tile, int right);

/* Adds a block of Y beyond the image's edge, which has nothing but the DC coefficient of the block before it. */
void encode_symbols_add_beyond(encode_symbols *symbols);

#endif

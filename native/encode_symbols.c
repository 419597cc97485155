#include "encode_symbols.h"

#include <stdlib.h>
#include <string.h>

#include "vectorised.h"

enum { END_OF_BLOCK = 0x00, SIXTEEN_ZEROS = 0xF0, AC = ENCODE_ALPHABET, CHROMA = 2 * ENCODE_ALPHABET };

void encode_symbols_begin(encode_symbols *symbols) {
    for (int size = 1, first = 1; first < (int)sizeof symbols->sizes; size++, first *= 2)
        memset(symbols->sizes + first, size, (size_t)first);
}

ims_status encode_symbols_reserve(encode_symbols *symbols, size_t blocks) {
    size_t wanted = symbols->count + blocks * COEFFICIENTS; /* a block has no more symbols than coefficients */
    if (wanted <= symbols->capacity) return IMS_OK;
    size_t capacity = wanted < 2 * symbols->capacity ? 2 * symbols->capacity : wanted;
    if (capacity > SIZE_MAX / sizeof *symbols->all) return IMS_MEMORY;
    encode_symbol *all = realloc(symbols->all, capacity * sizeof *all);
    if (!all) return IMS_MEMORY;
    symbols->all = all;
    symbols->capacity = capacity;
    return IMS_OK;
}

/* The place in the file's order of each coefficient, 8 * column + row. */
static const uint8_t place_in_file[COEFFICIENTS] = {
     0,  2,  3,  9, 10, 20, 21, 35,  1,  4,  8, 11, 19, 22, 34, 36,
     5,  7, 12, 18, 23, 33, 37, 48,  6, 13, 17, 24, 32, 38, 47, 49,
    14, 16, 25, 31, 39, 46, 50, 57, 15, 26, 30, 40, 45, 51, 56, 58,
    27, 29, 41, 44, 52, 55, 59, 62, 28, 42, 43, 53, 54, 60, 61, 63,
};

INLINED encode_symbol *add(encode_symbols *symbols, encode_symbol *end, int kind, int bits) {
    symbols->frequencies[kind]++;
    *end = (uint32_t)kind | (uint32_t)bits << 16;
    return end + 1;
}

/* Adds the symbol of a coefficient: how many bits it has goes to the symbol's lower 4 bits. */
INLINED encode_symbol *add_value(encode_symbols *symbols, encode_symbol *end, int kind, int value) {
    int size = symbols->sizes[abs(value)], sign = value >> 31; /* 0 or -1 */
    return add(symbols, end, kind | size, (value + sign) & ((1 << size) - 1));
}

/* Returns which of a block's coefficients are other than zero: a bit for each, the file's first one lowest. */
INLINED uint64_t find_present(const uint8_t columns[8]) {
    uint64_t unordered = 0, present = 0;
    for (int x = 0; x < 8; x++) unordered |= (uint64_t)columns[x] << (8 * x);
    for (; unordered; unordered &= unordered - 1) present |= UINT64_C(1) << place_in_file[__builtin_ctzll(unordered)];
    return present;
}

void encode_symbols_add(encode_symbols *symbols, int component, const encode_tile *tile, int right) {
    const int16_t *block = tile->values[0] + 8 * right;
    encode_symbol *end = symbols->all + symbols->count;
    int code = component ? CHROMA : 0;
    end = add_value(symbols, end, code, block[0] - symbols->last_dc[component]);
    symbols->last_dc[component] = block[0];
    int last = 0;
    for (uint64_t rest = find_present(tile->present + 8 * right) & ~UINT64_C(1); rest; rest &= rest - 1) {
        int place = __builtin_ctzll(rest), zeros = place - last - 1, at = encode_zigzag[place];
        for (; zeros > 15; zeros -= 16) end = add(symbols, end, code | AC | SIXTEEN_ZEROS, 0);
        end = add_value(symbols, end, code | AC | zeros << 4, block[at + (at & ~7)]);
        last = place;
    }
    if (last < COEFFICIENTS - 1) end = add(symbols, end, code | AC | END_OF_BLOCK, 0);
    symbols->count = (size_t)(end - symbols->all);
}

void encode_symbols_add_beyond(encode_symbols *symbols) {
    encode_symbol *end = symbols->all + symbols->count;
    end = add_value(symbols, end, 0, 0);
    end = add(symbols, end, AC | END_OF_BLOCK, 0);
    symbols->count = (size_t)(end - symbols->all);
}

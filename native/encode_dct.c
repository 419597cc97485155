#include "encode_dct.h"

#include "vectorised.h"

/* Loeffler, Ligtenberg and Moschytz's DCT in integers of 13 fractional bits, with two more kept between its passes:
 * libjpeg's "islow", whose rounding it shares. */
enum { FRACTION = 13, KEPT = 2 };

typedef int16_t grid[8][TILE_LANES] __attribute__((aligned(32)));

#define FIX(number) ((int16_t)((number) * (1 << FRACTION) + 0.5))

INLINED int16_t descale(int32_t number, int bits) { return (int16_t)((number + (1 << (bits - 1))) >> bits); }

/* Transforms all columns; the results are sqrt(8) times too large. */
INLINED void transform_columns(grid t, int second) {
    const int bits = second ? FRACTION + KEPT : FRACTION - KEPT;
    for (int i = 0; i < TILE_LANES; i++) {
        int s0 = t[0][i] + t[7][i], s1 = t[1][i] + t[6][i], s2 = t[2][i] + t[5][i], s3 = t[3][i] + t[4][i];
        int d0 = t[0][i] - t[7][i], d1 = t[1][i] - t[6][i], d2 = t[2][i] - t[5][i], d3 = t[3][i] - t[4][i];

        int s03 = s0 + s3, s12 = s1 + s2, d03 = s0 - s3, d12 = s1 - s2;
        t[0][i] = second ? descale(s03 + s12, KEPT) : (int16_t)((s03 + s12) * (1 << KEPT));
        t[4][i] = second ? descale(s03 - s12, KEPT) : (int16_t)((s03 - s12) * (1 << KEPT));
        int even = (d03 + d12) * FIX(0.541196100);
        t[2][i] = descale(even + d03 * FIX(0.765366865), bits);
        t[6][i] = descale(even - d12 * FIX(1.847759065), bits);

        int all = (d0 + d1 + d2 + d3) * FIX(1.175875602);
        int outer = (d0 + d3) * FIX(0.899976223), inner = (d1 + d2) * FIX(2.562915447);
        int d13 = all - (d1 + d3) * FIX(1.961570560), d02 = all - (d0 + d2) * FIX(0.390180644);
        t[1][i] = descale(d0 * FIX(1.501321110) - outer + d02, bits);
        t[3][i] = descale(d1 * FIX(3.072711026) - inner + d13, bits);
        t[5][i] = descale(d2 * FIX(2.053119869) - inner + d02, bits);
        t[7][i] = descale(d3 * FIX(0.298631336) - outer + d13, bits);
    }
}

typedef int16_t row_of_two __attribute__((vector_size(2 * TILE_LANES), may_alias));

#if defined(__clang__)
#define INTERLEAVE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define INTERLEAVE(a, b, ...) __builtin_shuffle(a, b, (row_of_two){__VA_ARGS__})
#endif
#define INTERLEAVE_LEFT(a, b) INTERLEAVE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27)
#define INTERLEAVE_RIGHT(a, b) INTERLEAVE(a, b, 4, 20, 5, 21, 6, 22, 7, 23, 12, 28, 13, 29, 14, 30, 15, 31)

/* Transposes both blocks: interleaving the upper and the lower half of a block three times comes to that. */
INLINED void transpose(grid blocks) {
    row_of_two *rows = (row_of_two *)(void *)blocks, mixed[8];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 4; i++) {
            mixed[2 * i] = INTERLEAVE_LEFT(rows[i], rows[i + 4]);
            mixed[2 * i + 1] = INTERLEAVE_RIGHT(rows[i], rows[i + 4]);
        }
        for (int i = 0; i < 8; i++) rows[i] = mixed[i];
    }
}

/* Rounds to the nearest step, halves away from zero. */
INLINED void quantise(const grid blocks, const encode_divisors *restrict by, encode_tile *restrict out) {
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < TILE_LANES; x++) {
            int16_t value = blocks[y][x], sign = value >> 15; /* 0 or -1 */
            uint16_t size = (uint16_t)((value ^ sign) - sign + by->correction[y][x]);
            size = (uint16_t)((uint32_t)size * by->reciprocal[y][x] >> 16);
            size = (uint16_t)((uint32_t)size * by->scale[y][x] >> 16);
            out->values[y][x] = (int16_t)((size ^ sign) - sign);
        }
}

INLINED void find_present(encode_tile *tile) {
    const row_of_two *rows = (const row_of_two *)(void *)tile->values;
    row_of_two present = {0};
    for (int y = 0; y < 8; y++) present |= (rows[y] != 0) & (int16_t)(1 << y);
    for (int x = 0; x < TILE_LANES; x++) tile->present[x] = (uint8_t)present[x];
}

VECTORISED void encode_transform(const uint8_t *samples, size_t stride, const encode_divisors *divisors,
                                 encode_tile *out) {
    grid blocks;
    for (int y = 0; y < 8; y++, samples += stride)
        for (int x = 0; x < TILE_LANES; x++) blocks[y][x] = (int16_t)(samples[x] - 128);
    transpose(blocks);
    transform_columns(blocks, 0);
    transpose(blocks);
    transform_columns(blocks, 1);
    quantise(blocks, divisors, out);
    find_present(out);
}

#include "encode_quantisation.h"

const uint8_t encode_zigzag[COEFFICIENTS] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

/* ITU-T T.81, tables K.1 and K.2. */
static const uint8_t standard_steps[2][COEFFICIENTS] = {
    {16, 11, 10, 16, 24,  40,  51,  61,  12, 12, 14, 19, 26,  58,  60,  55,  14, 13, 16, 24, 40,  57,
     69, 56, 14, 17, 22,  29,  51,  87,  80, 62, 18, 22, 37,  56,  68,  109, 103, 77, 24, 35, 55,  64,
     81, 104, 113, 92, 49, 64, 78,  87,  103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99},
    {17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99,
     99, 99, 47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
     99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99},
};

static int scaled(int step, int quality) {
    int percent = quality < 50 ? 5000 / quality : 200 - 2 * quality;
    int wanted = (step * percent + 50) / 100;
    return wanted < 1 ? 1 : wanted > 255 ? 255 : wanted;
}

/* x / divisor, rounded, is ((x + correction) * reciprocal >> 16) * scale >> 16 for every x of 15 bits, by the method of
 * Agner Fog, "Optimizing subroutines in assembly language", chapter 16.9. The DCT's results are 8 times too large. */
static void set_divisor(encode_divisors *divisors, int place, int step) {
    uint32_t divisor = 8 * (uint32_t)step, correction = divisor / 2;
    int bits = 16 + 31 - __builtin_clz(divisor);
    uint32_t reciprocal = (UINT32_C(1) << bits) / divisor, rest = (UINT32_C(1) << bits) % divisor;
    if (rest == 0) {
        reciprocal >>= 1; /* would have 17 bits */
        bits--;
    } else if (rest <= divisor / 2) {
        correction++;
    } else {
        reciprocal++;
    }
    for (int lane = place % 8; lane < TILE_LANES; lane += 8) {
        divisors->reciprocal[place / 8][lane] = (uint16_t)reciprocal;
        divisors->correction[place / 8][lane] = (uint16_t)correction;
        divisors->scale[place / 8][lane] = (uint16_t)(UINT32_C(1) << (32 - bits));
    }
}

void encode_quantisation_begin(encode_quantisation *quantisation, int chroma, int quality) {
    for (int place = 0; place < COEFFICIENTS; place++) {
        int step = scaled(standard_steps[chroma][place], quality);
        quantisation->steps[place] = (uint8_t)step;
        set_divisor(&quantisation->divisors, place, step);
    }
}

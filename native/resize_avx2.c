/* The kernels of resize.c in AVX2, which give the same bytes: the same products, added up in 32 bits. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "resize.h"

#define AVX2 __attribute__((target("avx2")))
#define AVX2_INLINE __attribute__((target("avx2"), always_inline)) static inline

/* Output pixels are computed four at a time, x to x + 3: x and x + 2 in the lower and upper half of one register,
 * x + 1 and x + 3 in another, so that packing leaves them in order. For each pair of taps `spread` holds the two
 * registers of weights: w0 w1 w0 w1 w0 w1 w0 w1 of each half. */
enum { GROUP = 4, SPREAD_PAIR = 32 /* int16 for each pair of taps of a group */ };

static void spread(resize_axis *axis) {
    static const int place[GROUP] = {0, 2, 1, 3}; /* of output x + i: which quarter of the pair's 64 bytes */
    int pairs = axis->taps / 2;
    for (int x = 0; x < ((axis->size + GROUP - 1) & ~(GROUP - 1)); x++)
        for (int pair = 0; pair < pairs; pair++) {
            int32_t two = 0;
            if (x < axis->size) memcpy(&two, axis->weights + (ptrdiff_t)x * axis->taps + 2 * pair, sizeof two);
            int16_t *to = axis->spread + ((ptrdiff_t)(x / GROUP) * pairs + pair) * SPREAD_PAIR + place[x % GROUP] * 8;
            for (int i = 0; i < 4; i++) memcpy(to + 2 * i, &two, sizeof two);
        }
}

AVX2_INLINE __m256i two_rows_of_16(const uint8_t *low, const uint8_t *high) {
    __m256i first = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low));
    return _mm256_inserti128_si256(first, _mm_loadu_si128((const __m128i *)high), 1);
}

/* Four pixels, 16 bits a channel and zero-extended: channels of pixels 0 and 1 side by side, or of 2 and 3. */
AVX2_INLINE __m256i pair_mask(int pixel_bytes, int pixel) {
    char a = (char)(pixel * pixel_bytes), b = (char)(a + pixel_bytes);
    const char no = -128;
    return _mm256_broadcastsi128_si256(_mm_setr_epi8(a, no, b, no, (char)(a + 1), no, (char)(b + 1), no, (char)(a + 2),
                                                     no, (char)(b + 2), no, no, no, no, no));
}

AVX2_INLINE void across_by(const resize_axis *axis, const uint8_t *row, int pixel_bytes, uint8_t *out, int pairs) {
    const __m256i first_two = pair_mask(pixel_bytes, 0), last_two = pair_mask(pixel_bytes, 2);
    const __m256i half = _mm256_set1_epi32(1 << (WEIGHT_BITS - 1));
    const __m128i drop_fourth = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    const __m256i *weights = (const __m256i *)axis->spread;
    const int32_t *first = axis->first, *end = first + axis->size;
    for (; first < end; first += GROUP, out += 3 * GROUP) {
        const uint8_t *p0 = row + (ptrdiff_t)first[0] * pixel_bytes, *p1 = row + (ptrdiff_t)first[1] * pixel_bytes;
        const uint8_t *p2 = row + (ptrdiff_t)first[2] * pixel_bytes, *p3 = row + (ptrdiff_t)first[3] * pixel_bytes;
        __m256i even = half, odd = half;
        ptrdiff_t at = 0;
        for (int pair = 0; pair < pairs; pair += 2, at += 4 * pixel_bytes) {
            __m256i even_pixels = two_rows_of_16(p0 + at, p2 + at), odd_pixels = two_rows_of_16(p1 + at, p3 + at);
            even = _mm256_add_epi32(even, _mm256_madd_epi16(_mm256_shuffle_epi8(even_pixels, first_two), weights[0]));
            odd = _mm256_add_epi32(odd, _mm256_madd_epi16(_mm256_shuffle_epi8(odd_pixels, first_two), weights[1]));
            weights += 2;
            if (pair + 1 == pairs) break;
            even = _mm256_add_epi32(even, _mm256_madd_epi16(_mm256_shuffle_epi8(even_pixels, last_two), weights[0]));
            odd = _mm256_add_epi32(odd, _mm256_madd_epi16(_mm256_shuffle_epi8(odd_pixels, last_two), weights[1]));
            weights += 2;
        }
        __m256i words = _mm256_packus_epi32(_mm256_srai_epi32(even, WEIGHT_BITS), _mm256_srai_epi32(odd, WEIGHT_BITS));
        __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0x08);
        __m128i rgb = _mm_shuffle_epi8(_mm256_castsi256_si128(bytes), drop_fourth);
        _mm_storeu_si128((__m128i *)out, rgb);
    }
}

/* The common numbers of taps get loops of their own, which the compiler unrolls. */
AVX2_INLINE void across_pixels(const resize_axis *axis, const uint8_t *row, int pixel_bytes, uint8_t *out) {
    switch (axis->taps / 2) {
    case 1: across_by(axis, row, pixel_bytes, out, 1); break;
    case 2: across_by(axis, row, pixel_bytes, out, 2); break;
    case 3: across_by(axis, row, pixel_bytes, out, 3); break;
    default: across_by(axis, row, pixel_bytes, out, axis->taps / 2);
    }
}

AVX2 static void across(const resize_axis *axis, const uint8_t *row, int pixel_bytes, uint8_t *out) {
    if (pixel_bytes == 4)
        across_pixels(axis, row, 4, out);
    else
        across_pixels(axis, row, 3, out);
}

AVX2_INLINE __m256i down_block(const uint8_t *const *rows, const int16_t *weights, int taps, __m256i bias, int at) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i sum0 = bias, sum1 = bias, sum2 = bias, sum3 = bias;
    for (int k = 0; k < taps; k += 2) {
        int32_t two;
        memcpy(&two, weights + k, sizeof two);
        __m256i weight = _mm256_set1_epi32(two);
        __m256i a = _mm256_loadu_si256((const __m256i *)(rows[k] + at));
        __m256i b = _mm256_loadu_si256((const __m256i *)(rows[k + 1] + at));
        __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
        sum0 = _mm256_add_epi32(sum0, _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), weight));
        sum1 = _mm256_add_epi32(sum1, _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), weight));
        sum2 = _mm256_add_epi32(sum2, _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), weight));
        sum3 = _mm256_add_epi32(sum3, _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), weight));
    }
    __m256i low = _mm256_packus_epi32(_mm256_srai_epi32(sum0, WEIGHT_BITS), _mm256_srai_epi32(sum1, WEIGHT_BITS));
    __m256i high = _mm256_packus_epi32(_mm256_srai_epi32(sum2, WEIGHT_BITS), _mm256_srai_epi32(sum3, WEIGHT_BITS));
    return _mm256_packus_epi16(low, high);
}

AVX2 static void down(const uint8_t *const *rows, const int16_t *weights, int taps, int bias, uint8_t *out,
                      int bytes) {
    const __m256i biases = _mm256_set1_epi32(bias);
    int at = 0;
    for (; at + 32 <= bytes; at += 32)
        _mm256_storeu_si256((__m256i *)(out + at), down_block(rows, weights, taps, biases, at));
    if (at < bytes) {
        uint8_t last[32];
        _mm256_storeu_si256((__m256i *)last, down_block(rows, weights, taps, biases, at));
        memcpy(out + at, last, (size_t)(bytes - at));
    }
}

const resize_kernels resize_avx2 = {"avx2", spread, across, down};

#endif

/* The kernels of resize.c in AVX2, which give the same bytes: the same products, added up in 32 bits. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "resize.h"

#define AVX2 __attribute__((target("avx2")))
#define AVX2_INLINE __attribute__((target("avx2"), always_inline)) static inline

/* Of a pixel's two: a + (b - a) * weight / 2^WEIGHT_BITS, rounded. The same as both products added up in 32 bits,
 * since the weights add up to 2^WEIGHT_BITS, or one of them is whole. */
AVX2_INLINE __m256i blend(__m256i a, __m256i b, __m256i weight_of_b) {
    return _mm256_add_epi16(a, _mm256_mulhrs_epi16(_mm256_sub_epi16(b, a), weight_of_b));
}

/* Output pixels are computed eight at a time, x to x + 3 in the lower halves of registers and x + 4 to x + 7 in the
 * upper ones, so that packing leaves them in order.
 * Of more than two taps, a register holds x + i and x + 4 + i, and `spread` its weights, pair by pair: w0 w1 four times
 * in each half. Of two taps, it holds x, x + 1, x + 4, x + 5 or the other four, and `spread` w1 of each, four times. */

static void spread_two(resize_axis *axis) {
    static const int place[RESIZE_GROUP] = {0, 1, 4, 5, 2, 3, 6, 7};
    for (int x = 0; x < axis->size; x++) {
        int16_t *to = axis->spread + ((x & ~(RESIZE_GROUP - 1)) + place[x % RESIZE_GROUP]) * 4;
        for (int i = 0; i < 4; i++) to[i] = axis->weights[2 * x + 1];
    }
}

static void spread(resize_axis *axis) {
    if (axis->taps == 2) {
        spread_two(axis);
        return;
    }
    int pairs = axis->taps / 2;
    for (int x = 0; x < axis->size; x++) {
        int16_t *to = axis->spread + (ptrdiff_t)(x & ~(RESIZE_GROUP - 1)) * axis->taps * 4;
        to += x % 4 * pairs * 16 + x % RESIZE_GROUP / 4 * 8;
        for (int pair = 0; pair < pairs; pair++, to += 16) {
            int32_t two;
            memcpy(&two, axis->weights + (ptrdiff_t)x * axis->taps + 2 * pair, sizeof two);
            for (int i = 0; i < 4; i++) memcpy(to + 2 * i, &two, sizeof two);
        }
    }
}

/* Writes 24 bytes of 28: eight pixels of four channels without the fourth. */
AVX2_INLINE void store_group(uint8_t *out, __m256i pixels) {
    const __m256i drop_fourth =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    __m256i rgb = _mm256_shuffle_epi8(pixels, drop_fourth);
    _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(rgb));
    _mm_storeu_si128((__m128i *)(out + 12), _mm256_extracti128_si256(rgb, 1));
}

AVX2_INLINE int64_t load_8(const uint8_t *bytes) {
    int64_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

/* Blends the two pixels at first[0], first[1], first[4] and first[5]. */
AVX2_INLINE __m256i across_four(const uint8_t *row, const int32_t *first, int pixel_bytes, __m256i weights) {
    const char no = -128;
    const __m256i one =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, no, 1, no, 2, no, no, no, 8, no, 9, no, 10, no, no, no));
    const __m256i other = _mm256_add_epi8(one, _mm256_set1_epi16((short)pixel_bytes)); /* to low bytes: `no` stays */
    __m256i pixels = _mm256_set_epi64x(
        load_8(row + (ptrdiff_t)first[5] * pixel_bytes), load_8(row + (ptrdiff_t)first[4] * pixel_bytes),
        load_8(row + (ptrdiff_t)first[1] * pixel_bytes), load_8(row + (ptrdiff_t)first[0] * pixel_bytes));
    return blend(_mm256_shuffle_epi8(pixels, one), _mm256_shuffle_epi8(pixels, other), weights);
}

AVX2_INLINE void across_two(const resize_axis *axis, const uint8_t *row, int pixel_bytes, uint8_t *out) {
    const __m256i *weights = (const __m256i *)axis->spread;
    const int32_t *first = axis->first, *end = first + axis->size;
    for (; first < end; first += RESIZE_GROUP, weights += 2, out += 3 * RESIZE_GROUP) {
        __m256i low = across_four(row, first, pixel_bytes, weights[0]);
        __m256i high = across_four(row, first + 2, pixel_bytes, weights[1]);
        store_group(out, _mm256_packus_epi16(low, high));
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

/* The channels of the outputs whose first pixels are given, 32 bits each. */
AVX2_INLINE __m256i weigh(const uint8_t *low, const uint8_t *high, int pixel_bytes, const __m256i *weights, int pairs) {
    const __m256i first_two = pair_mask(pixel_bytes, 0), last_two = pair_mask(pixel_bytes, 2);
    __m256i sum = _mm256_set1_epi32(1 << (WEIGHT_BITS - 1));
    for (int pair = 0; pair < pairs; pair += 2) {
        ptrdiff_t at = (ptrdiff_t)pair * 2 * pixel_bytes;
        __m256i pixels = two_rows_of_16(low + at, high + at);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, first_two), weights[pair]));
        if (pair + 1 == pairs) break;
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, last_two), weights[pair + 1]));
    }
    return _mm256_srai_epi32(sum, WEIGHT_BITS);
}

AVX2_INLINE void across_by(const resize_axis *axis, const uint8_t *row, int pixel_bytes, uint8_t *out, int pairs) {
    const __m256i *weights = (const __m256i *)axis->spread;
    const int32_t *first = axis->first, *end = first + axis->size;
    for (; first < end; first += RESIZE_GROUP, out += 3 * RESIZE_GROUP) {
        __m256i words[4];
        for (int i = 0; i < 4; i++, weights += pairs)
            words[i] = weigh(row + (ptrdiff_t)first[i] * pixel_bytes, row + (ptrdiff_t)first[i + 4] * pixel_bytes,
                             pixel_bytes, weights, pairs);
        store_group(out, _mm256_packus_epi16(_mm256_packus_epi32(words[0], words[1]),
                                             _mm256_packus_epi32(words[2], words[3])));
    }
}

/* The common numbers of taps get loops of their own, which the compiler unrolls. */
AVX2_INLINE void across_pixels(const resize_axis *axis, const uint8_t *row, int pixel_bytes, uint8_t *out) {
    switch (axis->taps) {
    case 2: across_two(axis, row, pixel_bytes, out); break;
    case 4: across_by(axis, row, pixel_bytes, out, 2); break;
    case 6: across_by(axis, row, pixel_bytes, out, 3); break;
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

/* The same of two rows, with a bias that rounds. */
AVX2_INLINE __m256i down_block_of_two(const uint8_t *const *rows, __m256i weight, int at) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i a = _mm256_loadu_si256((const __m256i *)(rows[0] + at));
    __m256i b = _mm256_loadu_si256((const __m256i *)(rows[1] + at));
    __m256i low = blend(_mm256_unpacklo_epi8(a, zero), _mm256_unpacklo_epi8(b, zero), weight);
    __m256i high = blend(_mm256_unpackhi_epi8(a, zero), _mm256_unpackhi_epi8(b, zero), weight);
    return _mm256_packus_epi16(low, high);
}

AVX2_INLINE void down_by(const uint8_t *const *rows, const int16_t *weights, int taps, int bias, uint8_t *out,
                         int bytes, int blend_two) {
    const __m256i biases = _mm256_set1_epi32(bias), second = _mm256_set1_epi16(weights[1]);
    for (int at = 0; at < bytes; at += 32) {
        __m256i block = blend_two ? down_block_of_two(rows, second, at) : down_block(rows, weights, taps, biases, at);
        if (at + 32 <= bytes) {
            _mm256_storeu_si256((__m256i *)(out + at), block);
        } else {
            uint8_t last[32];
            _mm256_storeu_si256((__m256i *)last, block);
            memcpy(out + at, last, (size_t)(bytes - at));
        }
    }
}

AVX2 static void down(const uint8_t *const *rows, const int16_t *weights, int taps, int bias, uint8_t *out,
                      int bytes) {
    if (taps == 2 && bias == 1 << (WEIGHT_BITS - 1))
        down_by(rows, weights, taps, bias, out, bytes, 1);
    else
        down_by(rows, weights, taps, bias, out, bytes, 0);
}

const resize_kernels resize_avx2 = {"avx2", spread, across, down};

#endif

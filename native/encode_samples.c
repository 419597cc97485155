#include "encode_samples.h"

#include <string.h>

#include "vectorised.h"

/* The weights of JFIF in integers of 16 fractional bits, as libjpeg has them; halves are rounded as it does. Those of Y
 * add up to one and those of Cb and Cr to nothing, so that differences to green will do, which take fewer products. */
enum { FRACTION = 16, HALF = 1 << (FRACTION - 1), CENTRE = (128 << FRACTION) + HALF - 1 };

VECTORISED static void convert(const uint8_t *restrict rgb, size_t width, uint8_t *restrict luma,
                               uint8_t *restrict cb, uint8_t *restrict cr) {
    for (size_t x = 0; x < width; x++) {
        int green = rgb[3 * x + 1], red = rgb[3 * x] - green, blue = rgb[3 * x + 2] - green;
        luma[x] = (uint8_t)(green + ((19595 * red + 7471 * blue + HALF) >> FRACTION));
        cb[x] = (uint8_t)((32768 * blue - 11059 * red + CENTRE) >> FRACTION);
        cr[x] = (uint8_t)((32768 * red - 5329 * blue + CENTRE) >> FRACTION);
    }
}

/* Means of 2 x 2 samples, of which each uint16 holds two. They are rounded down and up in turns. */
VECTORISED static void halve(const uint16_t *restrict above, const uint16_t *restrict below, size_t mcus,
                             uint8_t *restrict out) {
    for (; mcus; mcus--, above += BLOCK_SIDE, below += BLOCK_SIDE, out += MCU_SIDE)
        for (int i = 0; i < BLOCK_SIDE; i++) {
            int sum = (above[i] & 255) + (above[i] >> 8) + (below[i] & 255) + (below[i] >> 8);
            out[i] = (uint8_t)((sum + 1 + (i & 1)) >> 2);
        }
}

static void halve_pair(encode_samples *samples, const uint8_t *above, const uint8_t *below, int row) {
    size_t stride = samples->stride;
    uint8_t *out = samples->chroma + (size_t)row * stride;
    for (int component = 0; component < 2; component++, above += stride, below += stride, out += BLOCK_SIDE)
        halve((const uint16_t *)(const void *)above, (const uint16_t *)(const void *)below, stride / MCU_SIDE, out);
}

ims_status encode_samples_begin(encode_samples *samples, int width) {
    size_t stride = ((size_t)width + MCU_SIDE - 1) & ~(size_t)(MCU_SIDE - 1);
    if (buffer_reserve(&samples->memory, (MCU_SIDE + BLOCK_SIDE + 4) * stride) != IMS_OK) return IMS_MEMORY;
    samples->width = width;
    samples->rows = 0;
    samples->stride = stride;
    samples->luma = samples->memory.bytes;
    samples->chroma = samples->luma + MCU_SIDE * stride;
    samples->pair = samples->chroma + BLOCK_SIDE * stride;
    return IMS_OK;
}

void encode_samples_push(encode_samples *samples, const uint8_t *rgb) {
    int row = samples->rows++;
    size_t stride = samples->stride, width = (size_t)samples->width;
    uint8_t *cb = samples->pair + (size_t)(row & 1) * 2 * stride;
    uint8_t *planes[3] = {samples->luma + (size_t)row * stride, cb, cb + stride};
    convert(rgb, width, planes[0], planes[1], planes[2]);
    for (int i = 0; i < 3; i++) memset(planes[i] + width, planes[i][width - 1], stride - width);
    if (row & 1) halve_pair(samples, samples->pair, cb, row / 2);
}

/* The last row's samples are repeated, of Cb and Cr those that are halved already. */
void encode_samples_fill(encode_samples *samples) {
    int rows = samples->rows, halved = (rows + 1) / 2;
    size_t stride = samples->stride;
    if (rows & 1) halve_pair(samples, samples->pair, samples->pair, rows / 2);
    for (int row = rows; row < MCU_SIDE; row++)
        memcpy(samples->luma + (size_t)row * stride, samples->luma + (size_t)(rows - 1) * stride, stride);
    for (int row = halved; row < BLOCK_SIDE; row++)
        memcpy(samples->chroma + (size_t)row * stride, samples->chroma + (size_t)(halved - 1) * stride, stride);
}

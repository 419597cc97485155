#include "jpeg_encode.h"

#include <stdlib.h>

#include "encode_dct.h"
#include "encode_file.h"
#include "encode_samples.h"
#include "encode_symbols.h"

enum { LUMA, CHROMA, MCU_BLOCKS = 6 };

struct jpeg_encoder {
    int width, height;
    encode_quantisation quantisation[2];
    encode_samples samples;
    encode_symbols symbols;
};

jpeg_encoder *jpeg_encoder_create(int width, int height, int quality) {
    jpeg_encoder *encoder = calloc(1, sizeof *encoder);
    if (!encoder) return NULL;
    encoder->width = width;
    encoder->height = height;
    for (int i = LUMA; i <= CHROMA; i++) encode_quantisation_begin(&encoder->quantisation[i], i, quality);
    encode_symbols_begin(&encoder->symbols);
    if (encode_samples_begin(&encoder->samples, width) == IMS_OK) return encoder;
    jpeg_encoder_destroy(encoder);
    return NULL;
}

/* Adds a row of an MCU's blocks of Y; `beyond` of the two lie beyond the image's edge. */
static void add_luma(jpeg_encoder *encoder, const uint8_t *samples, int beyond) {
    encode_tile tile;
    if (beyond < 2)
        encode_transform(samples, encoder->samples.stride, &encoder->quantisation[LUMA].divisors, &tile);
    for (int i = 0; i < 2; i++) {
        if (i < 2 - beyond)
            encode_symbols_add(&encoder->symbols, 0, &tile, i);
        else
            encode_symbols_add_beyond(&encoder->symbols);
    }
}

static ims_status add_mcus(jpeg_encoder *encoder) {
    encode_samples *samples = &encoder->samples;
    size_t stride = samples->stride;
    if (encode_symbols_reserve(&encoder->symbols, stride / MCU_SIDE * MCU_BLOCKS) != IMS_OK) return IMS_MEMORY;
    int no_lower = samples->rows <= BLOCK_SIDE;
    for (size_t x = 0; x < stride; x += MCU_SIDE) {
        int no_right = x + BLOCK_SIDE >= (size_t)encoder->width;
        add_luma(encoder, samples->luma + x, no_right);
        add_luma(encoder, samples->luma + BLOCK_SIDE * stride + x, no_lower ? 2 : no_right);
        encode_tile tile;
        encode_transform(samples->chroma + x, stride, &encoder->quantisation[CHROMA].divisors, &tile);
        for (int i = 0; i < 2; i++) encode_symbols_add(&encoder->symbols, 1 + i, &tile, i);
    }
    samples->rows = 0;
    return IMS_OK;
}

ims_status jpeg_encoder_push(jpeg_encoder *encoder, const uint8_t *row) {
    encode_samples_push(&encoder->samples, row);
    return encoder->samples.rows == MCU_SIDE ? add_mcus(encoder) : IMS_OK;
}

ims_status jpeg_encoder_end(jpeg_encoder *encoder, uint8_t **out, int64_t *length) {
    if (encoder->samples.rows) {
        encode_samples_fill(&encoder->samples);
        if (add_mcus(encoder) != IMS_OK) return IMS_MEMORY;
    }
    return encode_file(encoder->width, encoder->height, encoder->quantisation, &encoder->symbols, out, length);
}

void jpeg_encoder_destroy(jpeg_encoder *encoder) {
    if (!encoder) return;
    buffer_free(&encoder->samples.memory);
    free(encoder->symbols.all);
    free(encoder);
}

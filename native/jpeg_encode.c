#include "jpeg_encode.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "jpeg_errors.h"

#define FIRST_CAPACITY ((size_t)64 << 10)

struct jpeg_encoder {
    struct jpeg_compress_struct cinfo;
    struct jpeg_error_mgr errors;
    struct jpeg_destination_mgr destination;
    jmp_buf escape;
    uint8_t *bytes;
    size_t capacity;
    char *message;
};

static void on_error(j_common_ptr cinfo) {
    jpeg_encoder *encoder = cinfo->client_data;
    cinfo->err->format_message(cinfo, encoder->message);
    longjmp(encoder->escape, 1);
}

static void on_message(j_common_ptr cinfo, int level) {
    (void)cinfo;
    (void)level;
}

/* The destination: memory that doubles. libjpeg's own loses track of it when an error comes in between. */

static void grow(j_compress_ptr cinfo) {
    jpeg_encoder *encoder = cinfo->client_data;
    size_t used = encoder->capacity, wanted = used ? 2 * used : FIRST_CAPACITY;
    uint8_t *bytes = realloc(encoder->bytes, wanted);
    if (!bytes) {
        cinfo->err->msg_code = 0;
        longjmp(encoder->escape, 1);
    }
    encoder->bytes = bytes;
    encoder->capacity = wanted;
    encoder->destination.next_output_byte = bytes + used;
    encoder->destination.free_in_buffer = wanted - used;
}

static boolean on_full(j_compress_ptr cinfo) {
    grow(cinfo);
    return TRUE;
}

static void on_end(j_compress_ptr cinfo) { (void)cinfo; }

static ims_status begin(jpeg_encoder *encoder, int width, int height, int quality) {
    struct jpeg_compress_struct *cinfo = &encoder->cinfo;
    if (setjmp(encoder->escape)) return IMS_MEMORY; /* nothing else can go wrong with pixels */
    jpeg_create_compress(cinfo);
    encoder->destination = (struct jpeg_destination_mgr){
        .init_destination = grow, .empty_output_buffer = on_full, .term_destination = on_end};
    cinfo->dest = &encoder->destination;
    cinfo->image_width = (JDIMENSION)width;
    cinfo->image_height = (JDIMENSION)height;
    cinfo->input_components = 3;
    cinfo->in_color_space = JCS_RGB;
    jpeg_set_defaults(cinfo); /* baseline, YCbCr, 4:2:0, the accurate integer DCT */
    jpeg_set_quality(cinfo, quality, TRUE);
    cinfo->optimize_coding = TRUE;
    jpeg_start_compress(cinfo, TRUE);
    return IMS_OK;
}

jpeg_encoder *jpeg_encoder_create(int width, int height, int quality, char *message) {
    jpeg_encoder *encoder = calloc(1, sizeof *encoder);
    if (!encoder) return NULL;
    encoder->message = message;
    jpeg_errors_prepare(&encoder->errors, on_error, on_message);
    encoder->cinfo.err = &encoder->errors;
    encoder->cinfo.client_data = encoder;
    if (begin(encoder, width, height, quality) == IMS_OK) return encoder;
    jpeg_encoder_destroy(encoder);
    return NULL;
}

ims_status jpeg_encoder_push(jpeg_encoder *encoder, const uint8_t *row) {
    if (setjmp(encoder->escape)) return IMS_MEMORY;
    JSAMPROW rows[1] = {(JSAMPROW)(uintptr_t)row};
    jpeg_write_scanlines(&encoder->cinfo, rows, 1);
    return IMS_OK;
}

ims_status jpeg_encoder_end(jpeg_encoder *encoder, uint8_t **out, int64_t *length) {
    if (setjmp(encoder->escape)) return IMS_MEMORY;
    jpeg_finish_compress(&encoder->cinfo);
    *length = (int64_t)(encoder->capacity - encoder->destination.free_in_buffer);
    *out = encoder->bytes;
    encoder->bytes = NULL;
    return IMS_OK;
}

void jpeg_encoder_destroy(jpeg_encoder *encoder) {
    if (!encoder) return;
    jpeg_destroy_compress(&encoder->cinfo);
    free(encoder->bytes);
    free(encoder);
}

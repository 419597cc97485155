#include "jpeg_encode.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "jpeg_errors.h"

#define FIRST_CAPACITY ((size_t)64 << 10)

typedef struct {
    struct jpeg_compress_struct cinfo;
    struct jpeg_error_mgr errors;
    struct jpeg_destination_mgr destination;
    jmp_buf escape;
    uint8_t *bytes;
    size_t capacity;
    char *message;
} encoder;

static void on_error(j_common_ptr cinfo) {
    encoder *encoder = cinfo->client_data;
    cinfo->err->format_message(cinfo, encoder->message);
    longjmp(encoder->escape, 1);
}

static void on_message(j_common_ptr cinfo, int level) {
    (void)cinfo;
    (void)level;
}

/* The destination: memory that doubles. libjpeg's own loses track of it when an error comes in between. */

static void grow(j_compress_ptr cinfo) {
    encoder *encoder = cinfo->client_data;
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

static void encode(encoder *encoder, const uint8_t *pixels, int width, int height, int quality) {
    struct jpeg_compress_struct *cinfo = &encoder->cinfo;
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
    while (cinfo->next_scanline < cinfo->image_height) {
        JSAMPROW row = (JSAMPROW)(uintptr_t)(pixels + (size_t)cinfo->next_scanline * (size_t)width * 3);
        jpeg_write_scanlines(cinfo, &row, 1);
    }
    jpeg_finish_compress(cinfo);
}

ims_status jpeg_encode(const uint8_t *pixels, int width, int height, int quality, uint8_t **out, int64_t *length,
                       char *message) {
    encoder *encoder = calloc(1, sizeof *encoder);
    if (!encoder) return IMS_MEMORY;
    encoder->message = message;
    jpeg_errors_prepare(&encoder->errors, on_error, on_message);
    encoder->cinfo.err = &encoder->errors;
    encoder->cinfo.client_data = encoder;
    int failed = setjmp(encoder->escape);
    if (!failed) encode(encoder, pixels, width, height, quality);
    jpeg_destroy_compress(&encoder->cinfo);
    if (failed) {
        free(encoder->bytes);
    } else {
        *out = encoder->bytes;
        *length = (int64_t)(encoder->capacity - encoder->destination.free_in_buffer);
    }
    free(encoder);
    return failed ? IMS_MEMORY : IMS_OK; /* nothing else can go wrong with pixels */
}

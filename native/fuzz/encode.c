/* Encodes images of all sorts, in a build that stops at the first bad access, and compares every byte with those that
 * the libjpeg-turbo at hand writes:
 *
 *     native/fuzz/run.sh encode 10000 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jpeglib.h>

#include "jpeg_encode.h"
#include "random.h"

enum { SECONDS_FOR_ONE = 60, MOST_SIDE = 200, LONGEST_SIDE = 65500 };

typedef struct {
    int width, height, quality;
    uint8_t *pixels; /* [height][width][3] */
} picture;

typedef struct {
    uint8_t *bytes;
    unsigned long length;
} file;

static void draw_pixels(picture *image) {
    size_t row = (size_t)image->width * 3, count = row * (size_t)image->height;
    image->pixels = malloc(count);
    uint64_t kind = draw(4), step = 1 + draw(40);
    for (size_t i = 0; i < count; i++) {
        uint8_t above = i < row ? 128 : image->pixels[i - row];
        switch (kind) {
        case 0: image->pixels[i] = (uint8_t)draw(256); break;
        case 1: image->pixels[i] = draw(2) ? 255 : 0; break;
        case 2: image->pixels[i] = (uint8_t)(above + draw(2 * step + 1) - step); break;
        default: image->pixels[i] = draw(500) ? above : (uint8_t)draw(256); /* nearly flat */
        }
    }
}

static picture draw_picture(void) {
    picture image = {.width = 1 + (int)draw(MOST_SIDE), .height = 1 + (int)draw(MOST_SIDE)};
    int longest = LONGEST_SIDE - (int)draw(20), shortest = 1 + (int)draw(3);
    switch (draw(200)) {
    case 0: image.width = longest, image.height = shortest; break;
    case 1: image.width = shortest, image.height = longest; break;
    }
    image.quality = draw(4) ? 1 + (int)draw(100) : 100;
    draw_pixels(&image);
    return image;
}

static ims_status encode(const picture *image, file *out) {
    size_t stride = (size_t)image->width * 3;
    int64_t length = 0;
    jpeg_encoder *encoder = jpeg_encoder_create(image->width, image->height, image->quality);
    ims_status status = encoder ? IMS_OK : IMS_MEMORY;
    uint8_t *row = malloc(stride); /* of its own: a read beyond its end is seen */
    for (int y = 0; y < image->height && status == IMS_OK; y++) {
        memcpy(row, image->pixels + (size_t)y * stride, stride);
        status = jpeg_encoder_push(encoder, row);
    }
    free(row);
    if (status == IMS_OK) status = jpeg_encoder_end(encoder, &out->bytes, &length);
    out->length = (unsigned long)length;
    jpeg_encoder_destroy(encoder);
    return status;
}

static void encode_by_libjpeg(const picture *image, file *out) {
    struct jpeg_compress_struct cinfo;
    struct jpeg_error_mgr errors;
    cinfo.err = jpeg_std_error(&errors);
    jpeg_create_compress(&cinfo);
    jpeg_mem_dest(&cinfo, &out->bytes, &out->length);
    cinfo.image_width = (JDIMENSION)image->width;
    cinfo.image_height = (JDIMENSION)image->height;
    cinfo.input_components = 3;
    cinfo.in_color_space = JCS_RGB;
    jpeg_set_defaults(&cinfo); /* baseline, YCbCr, 4:2:0, the accurate integer DCT */
    jpeg_set_quality(&cinfo, image->quality, TRUE);
    cinfo.optimize_coding = TRUE;
    jpeg_start_compress(&cinfo, TRUE);
    for (int y = 0; y < image->height; y++) {
        JSAMPROW row = image->pixels + (size_t)y * (size_t)image->width * 3;
        jpeg_write_scanlines(&cinfo, &row, 1);
    }
    jpeg_finish_compress(&cinfo);
    jpeg_destroy_compress(&cinfo);
}

static int is_the_same(const picture *image) {
    file made = {NULL, 0}, expected = {NULL, 0};
    ims_status status = encode(image, &made);
    encode_by_libjpeg(image, &expected);
    int same = status == IMS_OK && made.length == expected.length && !memcmp(made.bytes, expected.bytes, made.length);
    if (!same)
        printf("%d x %d at quality %d: status %d, %lu bytes; by libjpeg %lu\n", image->width, image->height,
               image->quality, (int)status, made.length, expected.length);
    free(made.bytes);
    free(expected.bytes);
    return same;
}

int main(int argc, char **argv) {
    long runs = argc == 2 ? atol(argv[1]) : 0, same = 0;
    if (runs < 1) {
        fprintf(stderr, "usage: encode RUNS\n");
        return 2;
    }
    for (long run = 0; run < runs; run++) {
        alarm(SECONDS_FOR_ONE);
        picture image = draw_picture();
        same += is_the_same(&image);
        free(image.pixels);
    }
    printf("%ld of %ld images encoded to the bytes that libjpeg writes\n", same, runs);
    return same != runs;
}

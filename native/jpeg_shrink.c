/* Smaller versions of a JPEG, for `prepare`: decoded once, to its end, and resized row by row as it is decoded. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "jpeg.h"
#include "jpeg_encode.h"
#include "jpeg_session.h"

/* A version on its way: its pixels, and what fills them. */
typedef struct {
    ims_version *version;
    resizer resizer;
    uint8_t *pixels;
} draft;

/* Works out the version's size, as shrunk_size in src/imagesprint/images/coding.py. */
static void choose_size(ims_version *version, int width, int height) {
    int shorter = width < height ? width : height, wanted = version->shorter_side;
    version->width = width;
    version->height = height;
    if (shorter <= wanted) return;
    double scale = (double)wanted / shorter;
    version->width = (int32_t)rint(width * scale); /* to even, as Python rounds */
    version->height = (int32_t)rint(height * scale);
    if (version->width < wanted) version->width = wanted;
    if (version->height < wanted) version->height = wanted;
}

static void begin_drafts(jpeg_reader *reader, draft *drafts, int count) {
    int width = (int)reader->cinfo.image_width, height = (int)reader->cinfo.image_height;
    for (int i = 0; i < count; i++) {
        ims_version *version = drafts[i].version;
        choose_size(version, width, height);
        if (version->quality && version->width == width && version->height == height) continue;
        drafts[i].pixels = malloc((size_t)version->width * (size_t)version->height * 3);
        resize_geometry geometry = {.width = width,
                                    .height = height,
                                    .out_width = version->width,
                                    .out_height = version->height,
                                    .antialias = 1,
                                    .pixel_bytes = 4};
        if (!drafts[i].pixels || resizer_begin(&drafts[i].resizer, &geometry, drafts[i].pixels) != IMS_OK)
            jpeg_session_fail(reader, IMS_MEMORY);
    }
}

static ims_status read_drafts(jpeg_reader *reader, jpeg_file file, draft *drafts, int count, ims_info *info) {
    struct jpeg_decompress_struct *cinfo = &reader->cinfo;
    if (setjmp(reader->escape)) return jpeg_session_end(reader);
    jpeg_session_begin(reader, file);
    begin_drafts(reader, drafts, count);
    cinfo->out_color_space = JCS_EXT_RGBX;
    jpeg_start_decompress(cinfo);
    JSAMPROW rows[ROWS];
    jpeg_session_rows(reader, rows);
    while (cinfo->output_scanline < cinfo->output_height) {
        JDIMENSION got = jpeg_read_scanlines(cinfo, rows, ROWS);
        int64_t before = clock_ns();
        for (int i = 0; i < count; i++) {
            if (!drafts[i].pixels) continue;
            for (JDIMENSION row = 0; row < got; row++) resizer_push(&drafts[i].resizer, rows[row]);
            int64_t now = clock_ns();
            drafts[i].version->nanoseconds += now - before;
            before = now;
        }
    }
    jpeg_finish_decompress(cinfo);
    jpeg_fill_info(reader, info);
    return jpeg_session_end(reader);
}

static ims_status encode_draft(draft *draft, char *message) {
    ims_version *version = draft->version;
    if (!draft->pixels) return IMS_OK;
    if (version->quality == 0) {
        version->data = draft->pixels;
        version->length = (int64_t)version->width * version->height * 3;
        draft->pixels = NULL;
        return IMS_OK;
    }
    int64_t before = clock_ns();
    ims_status status = jpeg_encode(draft->pixels, version->width, version->height, version->quality, &version->data,
                                    &version->length, message);
    version->nanoseconds += clock_ns() - before;
    return status;
}

static ims_status shrink(jpeg_reader *reader, jpeg_file file, draft *drafts, int count, ims_info *info,
                         char *message) {
    ims_status status = read_drafts(reader, file, drafts, count, info);
    memcpy(message, jpeg_reader_message(reader), IMS_MESSAGE);
    for (int i = 0; i < count && status == IMS_OK; i++) status = encode_draft(&drafts[i], message);
    return status;
}

int32_t ims_shrink(const uint8_t *data, int64_t length, ims_version *versions, int32_t count, ims_info *info,
                   int64_t *nanoseconds, char *message) {
    int64_t began = clock_ns();
    jpeg_reader *reader = jpeg_reader_of_thread();
    draft *drafts = calloc((size_t)count + 1, sizeof *drafts);
    for (int i = 0; i < count; i++) {
        versions[i].data = NULL;
        versions[i].nanoseconds = 0;
        if (drafts) drafts[i] = (draft){.version = &versions[i], .resizer = {.kernels = resize_choose(0)}};
    }
    memcpy(message, "out of memory", sizeof "out of memory");
    ims_status status = IMS_MEMORY;
    if (reader && drafts) status = shrink(reader, (jpeg_file){data, (size_t)length}, drafts, count, info, message);
    for (int i = 0; drafts && i < count; i++) {
        resizer_free(&drafts[i].resizer);
        free(drafts[i].pixels);
        if (status != IMS_OK) {
            free(versions[i].data);
            versions[i].data = NULL;
        }
    }
    free(drafts);
    *nanoseconds = clock_ns() - began;
    for (int i = 0; i < count; i++) *nanoseconds -= versions[i].nanoseconds;
    return status;
}

void ims_free(uint8_t *data) { free(data); }

/* Smaller versions of a JPEG, for `prepare`: decoded once, to its end, and resized row by row as it is decoded. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "jpeg.h"
#include "jpeg_encode.h"
#include "jpeg_session.h"

#define OUT_ROWS 8 /* that a resizer may fill before they are encoded: a row from above completes at most two */

/* A version on its way. */
typedef struct {
    ims_version *version;
    resizer resizer;
    uint8_t *pixels;       /* all of a raw version, else OUT_ROWS; NULL: not to be made */
    jpeg_encoder *encoder; /* NULL for a raw version */
    int encoded;           /* rows */
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

static void begin_draft(jpeg_reader *reader, draft *draft) {
    int width = (int)reader->cinfo.image_width, height = (int)reader->cinfo.image_height;
    ims_version *version = draft->version;
    choose_size(version, width, height);
    int raw = version->quality == 0;
    if (!raw && version->width == width && version->height == height) return;
    draft->pixels = malloc((size_t)version->width * 3 * (size_t)(raw ? version->height : OUT_ROWS));
    if (!raw) draft->encoder = jpeg_encoder_create(version->width, version->height, version->quality);
    resize_geometry geometry = {.width = width,
                                .height = height,
                                .out_width = version->width,
                                .out_height = version->height,
                                .antialias = 1,
                                .pixel_bytes = 4,
                                .out_rows = raw ? 0 : OUT_ROWS};
    if (!draft->pixels || (!raw && !draft->encoder) ||
        resizer_begin(&draft->resizer, &geometry, draft->pixels) != IMS_OK)
        jpeg_session_fail(reader, IMS_MEMORY);
}

/* Resizes rows of the image, and encodes those that are complete. */
static void push_rows(jpeg_reader *reader, draft *draft, JSAMPROW *rows, JDIMENSION count) {
    size_t stride = (size_t)draft->version->width * 3;
    for (JDIMENSION i = 0; i < count; i++) {
        resizer_push(&draft->resizer, rows[i]);
        for (; draft->encoder && draft->encoded < draft->resizer.next_out; draft->encoded++) {
            const uint8_t *row = draft->pixels + (size_t)(draft->encoded % OUT_ROWS) * stride;
            if (jpeg_encoder_push(draft->encoder, row) != IMS_OK) jpeg_session_fail(reader, IMS_MEMORY);
        }
    }
}

static ims_status read_drafts(jpeg_reader *reader, jpeg_file file, int own_huffman, draft *drafts, int count,
                              ims_info *info) {
    struct jpeg_decompress_struct *cinfo = &reader->cinfo;
    if (setjmp(reader->escape)) return jpeg_session_end(reader);
    jpeg_session_begin(reader, file);
    for (int i = 0; i < count; i++) begin_draft(reader, &drafts[i]);
    cinfo->out_color_space = JCS_EXT_RGBX;
    jpeg_session_start(reader);
    if (own_huffman) jpeg_huffman_attach(&reader->huffman, cinfo);
    JSAMPROW rows[ROWS];
    jpeg_session_rows(reader, rows);
    while (cinfo->output_scanline < cinfo->output_height) {
        JDIMENSION got = jpeg_read_scanlines(cinfo, rows, ROWS);
        int64_t before = clock_ns();
        for (int i = 0; i < count; i++) {
            if (drafts[i].pixels) push_rows(reader, &drafts[i], rows, got);
            int64_t now = clock_ns();
            drafts[i].version->nanoseconds += now - before;
            before = now;
        }
    }
    jpeg_finish_decompress(cinfo);
    jpeg_fill_info(reader, info);
    return jpeg_session_end(reader);
}

static ims_status end_draft(draft *draft) {
    ims_version *version = draft->version;
    int64_t before = clock_ns();
    ims_status status = IMS_OK;
    if (draft->encoder) {
        status = jpeg_encoder_end(draft->encoder, &version->data, &version->length);
    } else if (draft->pixels) {
        version->data = draft->pixels;
        version->length = (int64_t)version->width * version->height * 3;
        draft->pixels = NULL;
    }
    version->nanoseconds += clock_ns() - before;
    return status;
}

static void free_draft(draft *draft) {
    resizer_free(&draft->resizer);
    jpeg_encoder_destroy(draft->encoder);
    free(draft->pixels);
}

/* Makes all versions, or none. */
static ims_status shrink(jpeg_reader *reader, jpeg_file file, int own_huffman, ims_version *versions, int count,
                         ims_info *info) {
    draft *drafts = calloc((size_t)count + 1, sizeof *drafts);
    if (!drafts) return IMS_MEMORY;
    for (int i = 0; i < count; i++)
        drafts[i] = (draft){.version = &versions[i], .resizer = {.kernels = resize_choose(0)}};
    ims_status status = read_drafts(reader, file, own_huffman, drafts, count, info);
    for (int i = 0; i < count && status == IMS_OK; i++) status = end_draft(&drafts[i]);
    for (int i = 0; i < count; i++) {
        free_draft(&drafts[i]);
        if (status == IMS_OK) continue;
        free(versions[i].data);
        versions[i].data = NULL;
    }
    free(drafts);
    return status;
}

int32_t ims_shrink(const uint8_t *data, int64_t length, ims_version *versions, int32_t count, ims_info *info,
                   int64_t *nanoseconds, char *message) {
    int64_t began = clock_ns();
    jpeg_reader *reader = jpeg_reader_of_thread();
    jpeg_file file = reader ? jpeg_reader_copy(reader, data, (size_t)length) : (jpeg_file){NULL, 0};
    for (int i = 0; i < count; i++) versions[i].data = NULL, versions[i].length = versions[i].nanoseconds = 0;
    memcpy(message, "out of memory", sizeof "out of memory");
    if (!file.data) return IMS_MEMORY;
    ims_status status = shrink(reader, file, 1, versions, count, info);
    if (reader->huffman.gave_up) status = shrink(reader, file, 0, versions, count, info);
    if (status != IMS_MEMORY) memcpy(message, jpeg_reader_message(reader), IMS_MESSAGE);
    *nanoseconds = clock_ns() - began;
    for (int i = 0; i < count; i++) *nanoseconds -= versions[i].nanoseconds;
    return status;
}

void ims_free(uint8_t *data) { free(data); }

#include "jpeg.h"

#include "clock.h"
#include "crop.h"
#include "jpeg_session.h"

/* Fancy upsampling of a pixel looks at one chroma sample beside it, which two pixels share. */
#define MARGIN 2

void jpeg_fill_info(const jpeg_reader *reader, ims_info *info) {
    const struct jpeg_decompress_struct *cinfo = &reader->cinfo;
    *info = (ims_info){.width = (int32_t)cinfo->image_width,
                       .height = (int32_t)cinfo->image_height,
                       .components = cinfo->num_components,
                       .progressive = cinfo->progressive_mode,
                       .extraneous = reader->extraneous};
}

ims_status jpeg_read_info(jpeg_reader *reader, jpeg_file file, ims_info *info) {
    if (setjmp(reader->escape)) return jpeg_session_end(reader);
    jpeg_session_begin(reader, file);
    jpeg_fill_info(reader, info);
    return jpeg_session_end(reader);
}

static ims_status check(jpeg_reader *reader, jpeg_file file, int own_huffman, ims_info *info) {
    struct jpeg_decompress_struct *cinfo = &reader->cinfo;
    if (setjmp(reader->escape)) return jpeg_session_end(reader);
    jpeg_session_begin_any(reader, file);
    cinfo->out_color_space = cinfo->jpeg_color_space; /* no pixels are wanted: the fewest, as they are */
    cinfo->scale_num = 1;
    cinfo->scale_denom = 8;
    jpeg_session_start(reader);
    if (own_huffman) jpeg_huffman_attach(&reader->huffman, cinfo);
    JSAMPROW rows[ROWS];
    jpeg_session_rows(reader, rows);
    while (cinfo->output_scanline < cinfo->output_height) jpeg_read_scanlines(cinfo, rows, ROWS);
    jpeg_finish_decompress(cinfo);
    jpeg_fill_info(reader, info);
    return jpeg_session_end(reader);
}

ims_status jpeg_check(jpeg_reader *reader, jpeg_file file, ims_info *info) {
    ims_status status = check(reader, file, 1, info);
    return reader->huffman.gave_up ? check(reader, file, 0, info) : status;
}

/* Has libjpeg output only the columns around the crop; returns where in them the crop begins. */
static JDIMENSION crop_columns(struct jpeg_decompress_struct *cinfo, const int32_t *box) {
    JDIMENSION left = box[0] > MARGIN ? (JDIMENSION)box[0] - MARGIN : 0;
    JDIMENSION right = (JDIMENSION)box[2] + MARGIN;
    if (right > cinfo->output_width) right = cinfo->output_width;
    JDIMENSION width = right - left;
    jpeg_crop_scanline(cinfo, &left, &width); /* moves `left` down to the edge of a block */
    return (JDIMENSION)box[0] - left;
}

/* Whether coefficients are missing of a progressive image, whose scans have all been read. libjpeg then smooths it:
 * what a block looks like depends on those around it, which are not there if rows or columns are left out. */
static int is_incomplete(const struct jpeg_decompress_struct *cinfo) {
    for (int i = 0; cinfo->coef_bits && i < cinfo->num_components; i++)
        for (int k = 0; k < DCTSIZE2; k++)
            if (cinfo->coef_bits[i][k] != 0) return 1;
    return 0;
}

/* Goes on to the crop's first row, and returns where in the rows it begins. */
static JDIMENSION go_to_crop(jpeg_reader *reader, const int32_t *box) {
    struct jpeg_decompress_struct *cinfo = &reader->cinfo;
    JDIMENSION top = (JDIMENSION)box[1];
    if (!is_incomplete(cinfo)) {
        JDIMENSION offset = crop_columns(cinfo, box);
        if (top > 0) jpeg_skip_scanlines(cinfo, top);
        return offset;
    }
    JSAMPROW rows[ROWS];
    jpeg_session_rows(reader, rows);
    while (cinfo->output_scanline < top) {
        JDIMENSION left = top - cinfo->output_scanline;
        jpeg_read_scanlines(cinfo, rows, left < ROWS ? left : ROWS);
    }
    return (JDIMENSION)box[0];
}

/* Of so many groups of rows one is timed: to look at the clock for each would take 2% of the time of small images. */
#define TIMED 8

/* Reads the rows of the crop into the resizer, with the time of the latter taken if asked. */
static void read_rows(jpeg_reader *reader, const int32_t *box, JDIMENSION offset, resizer *resizer, int64_t *stages) {
    struct jpeg_decompress_struct *cinfo = &reader->cinfo;
    JSAMPROW rows[ROWS];
    jpeg_session_rows(reader, rows);
    int64_t groups = 0, timed = 0, nanoseconds = 0;
    for (JDIMENSION bottom = (JDIMENSION)box[3]; cinfo->output_scanline < bottom; groups++) {
        JDIMENSION left = bottom - cinfo->output_scanline;
        JDIMENSION count = jpeg_read_scanlines(cinfo, rows, left < ROWS ? left : ROWS);
        int timing = stages && groups % TIMED == 0;
        int64_t began = timing ? clock_ns() : 0;
        for (JDIMENSION i = 0; i < count; i++) resizer_push(resizer, rows[i] + (size_t)offset * 4);
        if (timing) nanoseconds += clock_ns() - began;
        timed += timing;
    }
    if (stages) stages[IMS_STAGE_RESIZE] += nanoseconds * groups / timed;
}

/* Decodes what is left, so that its damage is found, and looks for the end-of-image marker. */
static void read_to_end(struct jpeg_decompress_struct *cinfo) {
    JDIMENSION left = cinfo->output_height - cinfo->output_scanline;
    if (left > 1) jpeg_skip_scanlines(cinfo, left - 1);
    /* The last row is read: skipped to its end, libjpeg takes the image as ended without looking. */
    JSAMPROW row = (*cinfo->mem->alloc_small)((j_common_ptr)cinfo, JPOOL_IMAGE, (size_t)cinfo->output_width * 4);
    while (cinfo->output_scanline < cinfo->output_height) jpeg_read_scanlines(cinfo, &row, 1);
    jpeg_finish_decompress(cinfo);
}

static ims_status read_crop(jpeg_reader *reader, jpeg_file file, const jpeg_crop *crop, int own_huffman,
                            resizer *resizer, uint8_t *out, int64_t *stages) {
    struct jpeg_decompress_struct *cinfo = &reader->cinfo;
    const int32_t *box = crop->box;
    if (setjmp(reader->escape)) return jpeg_session_end(reader);
    jpeg_session_begin(reader, file);
    if (!crop_is_within(box, cinfo->image_width, cinfo->image_height, reader->message))
        jpeg_session_fail(reader, IMS_OUTSIDE);
    resize_geometry geometry = {
        .width = box[2] - box[0], .height = box[3] - box[1], .out_width = crop->width, .out_height = crop->height,
        .flip = crop->flip, .antialias = crop->antialias, .pixel_bytes = 4,
    };
    if (resizer_begin(resizer, &geometry, out) != IMS_OK) jpeg_session_fail(reader, IMS_MEMORY);
    cinfo->out_color_space = JCS_EXT_RGBX;
    jpeg_session_start(reader);
    if (own_huffman) jpeg_huffman_attach(&reader->huffman, cinfo);
    JDIMENSION offset = go_to_crop(reader, box);
    read_rows(reader, box, offset, resizer, stages);
    if (crop->to_end)
        read_to_end(cinfo);
    else
        jpeg_session_find_end(reader);
    return jpeg_session_end(reader);
}

static ims_status read_crop_at_last(jpeg_reader *reader, jpeg_file file, const jpeg_crop *crop, resizer *resizer,
                                    uint8_t *out, int64_t *stages) {
    ims_status status = read_crop(reader, file, crop, !crop->portable, resizer, out, stages);
    return reader->huffman.gave_up ? read_crop(reader, file, crop, 0, resizer, out, stages) : status;
}

ims_status jpeg_read_crop(jpeg_reader *reader, jpeg_file file, const jpeg_crop *crop, resizer *resizer, uint8_t *out,
                          int64_t *stages) {
    if (!stages) return read_crop_at_last(reader, file, crop, resizer, out, NULL);
    int64_t began = clock_ns(), resized = stages[IMS_STAGE_RESIZE];
    ims_status status = read_crop_at_last(reader, file, crop, resizer, out, stages);
    stages[IMS_STAGE_JPEG] += clock_ns() - began - (stages[IMS_STAGE_RESIZE] - resized);
    return status;
}

/* Decodes down to a row, and no pixels. */
static void read_entropy_of_rows(jpeg_reader *reader, int rows, int own_huffman) {
    struct jpeg_decompress_struct *cinfo = &reader->cinfo;
    if ((JDIMENSION)rows > cinfo->image_height) jpeg_session_fail(reader, IMS_OUTSIDE);
    cinfo->out_color_space = JCS_EXT_RGBX;
    jpeg_session_start(reader);
    if (own_huffman && !jpeg_huffman_attach(&reader->huffman, cinfo)) jpeg_session_fail(reader, IMS_UNSUPPORTED);
    if ((JDIMENSION)rows < cinfo->output_height) {
        jpeg_skip_scanlines(cinfo, (JDIMENSION)rows);
    } else {
        JDIMENSION left = 0, width = 1; /* one block is all that is computed of the last rows */
        jpeg_crop_scanline(cinfo, &left, &width);
        read_to_end(cinfo);
    }
}

static ims_status read_entropy(jpeg_reader *reader, jpeg_file file, int rows, int own_huffman) {
    if (setjmp(reader->escape)) return jpeg_session_end(reader);
    jpeg_session_begin(reader, file);
    if (!own_huffman) jpeg_session_give_all(reader);
    if (rows > 0)
        read_entropy_of_rows(reader, rows, own_huffman);
    else
        jpeg_read_coefficients(&reader->cinfo);
    return jpeg_session_end(reader);
}

ims_status jpeg_entropy(jpeg_reader *reader, jpeg_file file, int rows, int own_huffman, int64_t *nanoseconds) {
    int64_t began = clock_thread_ns();
    ims_status status = read_entropy(reader, file, rows, own_huffman);
    *nanoseconds = clock_thread_ns() - began;
    return status;
}

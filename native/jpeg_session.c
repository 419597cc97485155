#include "jpeg_session.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <jerror.h>

#include "jpeg_errors.h"

#define MOST_PIXELS 178956970u /* Pillow's: beyond it its own limit is an error as well (twice MAX_IMAGE_PIXELS) */
#define MOST_SCANS 500         /* libjpeg-turbo's fuzzers'; an encoder writes about ten, a bomb tens of thousands */

static jpeg_reader *reader_of(void *cinfo) { return ((struct jpeg_common_struct *)cinfo)->client_data; }

void jpeg_session_fail(jpeg_reader *reader, ims_status status) {
    reader->status = status;
    longjmp(reader->escape, 1);
}

/* Errors: libjpeg calls these where its own would print and end the process. */

static ims_status status_of(int code) {
    switch (code) {
    case JERR_OUT_OF_MEMORY: return IMS_MEMORY;
    case JERR_IMAGE_TOO_BIG:
    case JERR_WIDTH_OVERFLOW: return IMS_TOO_LARGE;
    case JERR_NO_SOI:
    case JERR_BAD_PRECISION:
    case JERR_COMPONENT_COUNT:
    case JERR_CONVERSION_NOTIMPL:
    case JERR_FRACT_SAMPLE_NOTIMPL:
    case JERR_CCIR601_NOTIMPL:
    case JERR_ARITH_NOTIMPL:
    case JERR_SOF_UNSUPPORTED: return IMS_UNSUPPORTED;
    default: return IMS_DAMAGED;
    }
}

static void on_error(j_common_ptr cinfo) {
    jpeg_reader *reader = reader_of(cinfo);
    cinfo->err->format_message(cinfo, reader->message);
    jpeg_session_fail(reader, status_of(cinfo->err->msg_code));
}

static void on_message(j_common_ptr cinfo, int level) {
    if (level >= 0) return; /* a trace, no warning */
    if (!jpeg_errors_is_remark(cinfo->err->msg_code)) on_error(cinfo);
    if (cinfo->err->msg_code == JWRN_EXTRANEOUS_DATA) reader_of(cinfo)->extraneous++;
}

/* The source: the file lies in memory, and libjpeg gets it bit by bit. Had it as many bytes as a whole MCU could take,
 * 512 for each block, it would take its fast Huffman decoder, which passes over codes that do not exist. */
#define AT_A_TIME 500

static void source_begin(j_decompress_ptr cinfo) { (void)cinfo; }

static void give(jpeg_reader *reader, size_t most) {
    size_t left = (size_t)(reader->end - reader->given);
    reader->source.next_input_byte = reader->given;
    reader->source.bytes_in_buffer = left < most ? left : most;
    reader->given += reader->source.bytes_in_buffer;
}

static boolean source_fill(j_decompress_ptr cinfo) {
    jpeg_reader *reader = reader_of(cinfo);
    if (reader->given == reader->end) ERREXIT(cinfo, JERR_INPUT_EOF);
    give(reader, AT_A_TIME);
    return TRUE;
}

static void source_skip(j_decompress_ptr cinfo, long count) {
    jpeg_reader *reader = reader_of(cinfo);
    if (count <= 0) return;
    if (count > reader->end - reader->source.next_input_byte) ERREXIT(cinfo, JERR_INPUT_EOF);
    jpeg_session_go_on(reader, reader->source.next_input_byte + count);
}

void jpeg_session_go_on(jpeg_reader *reader, const uint8_t *next) {
    reader->given = next;
    give(reader, AT_A_TIME);
}

void jpeg_session_give_all(jpeg_reader *reader) {
    reader->given = reader->source.next_input_byte;
    give(reader, (size_t)(reader->end - reader->given));
}

/* Progress: called for each row of blocks of a progressive file. */

static void on_progress(j_common_ptr cinfo) {
    jpeg_reader *reader = reader_of(cinfo);
    if (reader->cinfo.input_scan_number <= MOST_SCANS) return;
    snprintf(reader->message, IMS_MESSAGE, "more than %d scans", MOST_SCANS);
    jpeg_session_fail(reader, IMS_TOO_LARGE);
}

/* Memory: everything that one file needs comes from the arena, but for whole-image coefficient arrays, which stay with
 * libjpeg's own manager. Even what libjpeg calls permanent: during a file that is nothing but its tables. */

static void *take_memory(j_common_ptr cinfo, int pool, size_t bytes) {
    (void)pool;
    void *memory = arena_take(&reader_of(cinfo)->arena, bytes);
    if (!memory) ERREXIT1(cinfo, JERR_OUT_OF_MEMORY, 0);
    return memory;
}

static JSAMPARRAY take_samples(j_common_ptr cinfo, int pool, JDIMENSION per_row, JDIMENSION rows) {
    size_t stride = ((size_t)per_row + 63) & ~(size_t)63; /* SIMD code reads and writes beyond a row's end */
    JSAMPARRAY array = take_memory(cinfo, pool, rows * sizeof(JSAMPROW));
    JSAMPROW row = take_memory(cinfo, pool, stride * rows + 64);
    for (JDIMENSION i = 0; i < rows; i++, row += stride) array[i] = row;
    return array;
}

static ims_status prepare(jpeg_reader *reader) {
    struct jpeg_decompress_struct *cinfo = &reader->cinfo;
    jpeg_errors_prepare(&reader->errors, on_error, on_message);
    cinfo->err = &reader->errors;
    cinfo->client_data = reader;
    if (setjmp(reader->escape)) return reader->status;
    jpeg_create_decompress(cinfo);
    cinfo->mem->alloc_small = cinfo->mem->alloc_large = take_memory;
    cinfo->mem->alloc_sarray = take_samples;
    reader->source = (struct jpeg_source_mgr){.init_source = source_begin,
                                              .fill_input_buffer = source_fill,
                                              .skip_input_data = source_skip,
                                              .resync_to_restart = jpeg_resync_to_restart,
                                              .term_source = source_begin};
    cinfo->src = &reader->source;
    reader->progress.progress_monitor = on_progress;
    cinfo->progress = &reader->progress;
    return IMS_OK;
}

jpeg_reader *jpeg_reader_create(void) {
    jpeg_reader *reader = calloc(1, sizeof *reader);
    if (!reader || prepare(reader) == IMS_OK) return reader;
    jpeg_reader_destroy(reader);
    return NULL;
}

void jpeg_reader_destroy(jpeg_reader *reader) {
    if (!reader) return;
    jpeg_destroy_decompress(&reader->cinfo);
    arena_free(&reader->arena);
    buffer_free(&reader->scanlines);
    buffer_free(&reader->copy);
    free(reader);
}

static pthread_key_t thread_key;

static void destroy_of_thread(void *reader) { jpeg_reader_destroy(reader); }

static void make_thread_key(void) { pthread_key_create(&thread_key, destroy_of_thread); }

jpeg_reader *jpeg_reader_of_thread(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_thread_key);
    jpeg_reader *reader = pthread_getspecific(thread_key);
    if (reader) return reader;
    reader = jpeg_reader_create();
    if (reader) pthread_setspecific(thread_key, reader);
    return reader;
}

jpeg_file jpeg_reader_copy(jpeg_reader *reader, const uint8_t *data, size_t length) {
    if (buffer_reserve(&reader->copy, length + JPEG_PADDING) != IMS_OK) return (jpeg_file){NULL, 0};
    return (jpeg_file){memcpy(reader->copy.bytes, data, length), length};
}

const char *jpeg_reader_message(const jpeg_reader *reader) { return reader->message; }

static void unsupported(jpeg_reader *reader, const char *what) {
    snprintf(reader->message, IMS_MESSAGE, "%s", what);
    jpeg_session_fail(reader, IMS_UNSUPPORTED);
}

static void check_kind(jpeg_reader *reader) {
    J_COLOR_SPACE space = reader->cinfo.jpeg_color_space;
    if (space != JCS_YCbCr && space != JCS_GRAYSCALE && space != JCS_RGB) unsupported(reader, "neither RGB nor grey");
    if (reader->cinfo.arith_code) unsupported(reader, "arithmetic coding");
}

static void check_size(jpeg_reader *reader) {
    const struct jpeg_decompress_struct *cinfo = &reader->cinfo;
    if (cinfo->data_precision != 8) unsupported(reader, "not 8 bits a channel");
    if (cinfo->num_components == 2 || cinfo->num_components > 4) unsupported(reader, "not 1, 3 or 4 channels");
    if ((uint64_t)cinfo->image_width * cinfo->image_height > MOST_PIXELS) {
        snprintf(reader->message, IMS_MESSAGE, "%u \u00d7 %u pixels, but at most %u are decoded", cinfo->image_width,
                 cinfo->image_height, MOST_PIXELS);
        jpeg_session_fail(reader, IMS_TOO_LARGE);
    }
}

/* The decompressor keeps tables from file to file, for those that leave them out; here each file stands alone. */
static void forget_tables(struct jpeg_decompress_struct *cinfo) {
    for (int i = 0; i < NUM_QUANT_TBLS; i++) cinfo->quant_tbl_ptrs[i] = NULL;
    for (int i = 0; i < NUM_HUFF_TBLS; i++) cinfo->dc_huff_tbl_ptrs[i] = cinfo->ac_huff_tbl_ptrs[i] = NULL;
}

void jpeg_session_begin_any(jpeg_reader *reader, jpeg_file file) {
    reader->status = IMS_OK;
    reader->extraneous = 0;
    reader->huffman.gave_up = 0;
    reader->message[0] = 0;
    reader->end = file.data + file.length;
    uint8_t *padding = (uint8_t *)file.data + file.length;
    for (int i = 0; i < JPEG_PADDING; i += 2) {
        padding[i] = 0xFF;
        padding[i + 1] = JPEG_EOI;
    }
    if (file.length < 2) unsupported(reader, "no JPEG");
    jpeg_session_go_on(reader, file.data);
    jpeg_read_header(&reader->cinfo, TRUE);
    check_size(reader);
}

void jpeg_session_begin(jpeg_reader *reader, jpeg_file file) {
    jpeg_session_begin_any(reader, file);
    check_kind(reader);
}

void jpeg_session_start(jpeg_reader *reader) {
    struct jpeg_decompress_struct *cinfo = &reader->cinfo;
    jpeg_start_decompress(cinfo);
    for (int i = 0; i < cinfo->num_components; i++) {
        if (cinfo->comp_info[i].quant_table) continue; /* kept by libjpeg at a channel's first scan */
        snprintf(reader->message, IMS_MESSAGE, "no scan has channel %d of %d", i + 1, cinfo->num_components);
        jpeg_session_fail(reader, IMS_DAMAGED);
    }
}

/* Where a row is aligned to 32 bytes, libjpeg-turbo's colour conversion writes it past the caches, from where it would
 * be read back at once. */
#define BESIDE_ALIGNMENT 16

void jpeg_session_rows(jpeg_reader *reader, JSAMPROW rows[ROWS]) {
    size_t stride = (size_t)reader->cinfo.output_width * 4 + BESIDE_ALIGNMENT + ROW_PADDING;
    stride = (stride + BUFFER_ALIGNMENT - 1) & ~(size_t)(BUFFER_ALIGNMENT - 1);
    if (buffer_reserve(&reader->scanlines, ROWS * stride) != IMS_OK) jpeg_session_fail(reader, IMS_MEMORY);
    for (int i = 0; i < ROWS; i++) rows[i] = reader->scanlines.bytes + (size_t)i * stride + BESIDE_ALIGNMENT;
}

void jpeg_session_find_end(jpeg_reader *reader) {
    if (jpeg_input_complete(&reader->cinfo) || reader->cinfo.unread_marker == JPEG_EOI) return; /* has been read */
    /* From behind: it nearly always comes last, and is no part of a scan, where 0xFF is followed by 0 or a restart. */
    const uint8_t *first = reader->source.next_input_byte, *last = reader->end - 2;
    while (last >= first && !(last[0] == 0xFF && last[1] == JPEG_EOI)) last--;
    if (last < first) ERREXIT(&reader->cinfo, JERR_INPUT_EOF);
}

ims_status jpeg_session_end(jpeg_reader *reader) {
    jpeg_abort_decompress(&reader->cinfo);
    forget_tables(&reader->cinfo);
    arena_reset(&reader->arena);
    return reader->status;
}

#include "imagesprint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "crc32c.h"
#include "crop.h"
#include "jpeg.h"
#include "pool.h"
#include "record.h"
#include "resize.h"

#define LARGEST_SIZE 16384 /* a side of the output */
#define LARGEST_SIDE 65535 /* of a raw image; a JPEG can have no more */

/* What a thread keeps from image to image. */
typedef struct {
    jpeg_reader *reader;
    resizer resizer;
    buffer encoded;    /* a record, or a copy of a JPEG file, with room behind it */
    buffer padded_row; /* of a raw image */
    int64_t stages[IMS_STAGES];
} worker;

struct ims_pool {
    pool *threads;
    int count, portable;
    const resize_kernels *kernels;
    worker *workers;
};

typedef struct {
    ims_pool *pool;
    const ims_batch *batch;
    const ims_images *images;   /* one of the two */
    const ims_records *records;
} job;

int32_t ims_abi(void) { return IMS_ABI; }

const char *ims_resizer(int32_t portable) { return resize_choose(portable)->name; }

static worker *make_workers(const ims_pool *pool) {
    worker *workers = calloc((size_t)pool->count, sizeof *workers);
    for (int i = 0; workers && i < pool->count; i++) workers[i].resizer.kernels = pool->kernels;
    return workers;
}

ims_pool *ims_create(int32_t threads, int32_t portable) {
    ims_pool *made = calloc(1, sizeof *made);
    if (!made) return NULL;
    made->count = threads;
    made->kernels = resize_choose(portable);
    made->portable = portable;
    made->workers = make_workers(made);
    made->threads = pool_create(threads);
    if (made->workers && made->threads) return made;
    if (made->threads) pool_destroy(made->threads);
    free(made->workers);
    free(made);
    return NULL;
}

void ims_destroy(ims_pool *pool) {
    int forked = pool_destroy(pool->threads); /* then the workers' data may be in any state, see `run` */
    for (int i = 0; !forked && i < pool->count; i++) {
        worker *worker = &pool->workers[i];
        jpeg_reader_destroy(worker->reader);
        resizer_free(&worker->resizer);
        buffer_free(&worker->encoded);
        buffer_free(&worker->padded_row);
    }
    if (!forked) free(pool->workers);
    free(pool);
}

static ims_status read_jpeg(worker *worker, const jpeg_crop *crop, jpeg_file file, uint8_t *out, int64_t *stages,
                            char *message) {
    if (!worker->reader && !(worker->reader = jpeg_reader_create())) return IMS_MEMORY;
    ims_status status = jpeg_read_crop(worker->reader, file, crop, &worker->resizer, out, stages);
    if (status != IMS_OK) memcpy(message, jpeg_reader_message(worker->reader), IMS_MESSAGE);
    return status;
}

/* The last rows of a raw image have no padding behind them: those go through a copy. */
static const uint8_t *with_padding(worker *worker, const uint8_t *row, size_t bytes, const uint8_t *end) {
    if ((size_t)(end - row) >= bytes + ROW_PADDING) return row;
    if (buffer_reserve(&worker->padded_row, bytes + ROW_PADDING) != IMS_OK) return NULL;
    return memcpy(worker->padded_row.bytes, row, bytes);
}

static ims_status read_raw(worker *worker, const jpeg_crop *crop, jpeg_file file, const int32_t *size, uint8_t *out,
                           int64_t *stages, char *message) {
    int64_t height = size[0], width = size[1], began = stages ? clock_ns() : 0;
    if (height < 1 || width < 1 || height > LARGEST_SIDE || width > LARGEST_SIDE ||
        height * width * 3 != (int64_t)file.length) {
        snprintf(message, IMS_MESSAGE, "%zu bytes are no raw image of %lld\u00d7%lld pixels", file.length,
                 (long long)width, (long long)height);
        return IMS_DAMAGED;
    }
    const int32_t *box = crop->box;
    if (!crop_is_within(box, width, height, message)) return IMS_OUTSIDE;
    resize_geometry geometry = {
        .width = box[2] - box[0], .height = box[3] - box[1], .out_width = crop->width, .out_height = crop->height,
        .flip = crop->flip, .antialias = crop->antialias, .pixel_bytes = 3,
    };
    if (resizer_begin(&worker->resizer, &geometry, out) != IMS_OK) return IMS_MEMORY;
    size_t bytes = (size_t)geometry.width * 3;
    for (int64_t y = box[1]; y < box[3]; y++) {
        const uint8_t *row = file.data + (y * width + box[0]) * 3;
        row = with_padding(worker, row, bytes, file.data + file.length);
        if (!row) return IMS_MEMORY;
        resizer_push(&worker->resizer, row);
    }
    if (stages) stages[IMS_STAGE_RESIZE] += clock_ns() - began;
    return IMS_OK;
}

/* Finds a row's bytes in memory. A JPEG is copied to where there is room behind it. */
static ims_status take_image(const ims_images *images, worker *worker, int64_t row, jpeg_file *file) {
    *file = (jpeg_file){images->data[row], (size_t)images->lengths[row]};
    if (images->raw_sizes) return IMS_OK;
    if (buffer_reserve(&worker->encoded, file->length + JPEG_PADDING) != IMS_OK) return IMS_MEMORY;
    memcpy(worker->encoded.bytes, file->data, file->length);
    file->data = worker->encoded.bytes;
    return IMS_OK;
}

/* Reads a row's bytes from its shard. */
static ims_status read_image(const ims_records *records, worker *worker, int64_t row, jpeg_file *file,
                             int64_t *stages, char *message) {
    uint8_t *payload;
    int64_t length = records->payload_lengths[row];
    ims_status status = record_read(&worker->encoded, records->fds[row], records->offsets[row], length, JPEG_PADDING,
                                    &payload, stages, message);
    if (status != IMS_OK) return status;
    int64_t begin = records->encoded_offsets[row], bytes = records->encoded_lengths[row];
    if (begin < 0 || bytes < 0 || begin > length || bytes > length - begin) {
        snprintf(message, IMS_MESSAGE, "has no bytes %lld to %lld, where the index has its image", (long long)begin,
                 (long long)(begin + bytes));
        return IMS_OTHER_LENGTH;
    }
    *file = (jpeg_file){payload + begin, (size_t)bytes};
    return IMS_OK;
}

static void do_row(void *argument, int thread, int64_t row) {
    const job *job = argument;
    const ims_batch *batch = job->batch;
    worker *worker = &job->pool->workers[thread];
    char *message = batch->messages + row * IMS_MESSAGE;
    int64_t *stages = batch->stages ? worker->stages : NULL;
    jpeg_file file;
    message[0] = 0;
    ims_status status = job->images ? take_image(job->images, worker, row, &file)
                                    : read_image(job->records, worker, row, &file, stages, message);
    if (status == IMS_OK) {
        jpeg_crop crop = {batch->crops + 4 * row, batch->height, batch->width, batch->flips[row] != 0,
                          batch->antialias, batch->to_end, job->pool->portable};
        uint8_t *out = batch->out + row * batch->height * batch->width * 3;
        const int32_t *raw_sizes = job->images ? job->images->raw_sizes : job->records->raw_sizes;
        status = raw_sizes ? read_raw(worker, &crop, file, raw_sizes + 2 * row, out, stages, message)
                           : read_jpeg(worker, &crop, file, out, stages, message);
    }
    if (status == IMS_MEMORY && !message[0]) snprintf(message, IMS_MESSAGE, "out of memory");
    batch->status[row] = status;
}

static int is_possible(int32_t side) { return 1 <= side && side <= LARGEST_SIZE; }

/* After a fork the parent's threads may have been anywhere in their data: it is left as it is and made anew. */
static void run(job *job) {
    ims_pool *pool = job->pool;
    const ims_batch *batch = job->batch;
    if (pool_enter(pool->threads)) pool->workers = make_workers(pool);
    if (!pool->workers || !is_possible(batch->height) || !is_possible(batch->width)) {
        for (int64_t row = 0; row < batch->count; row++) {
            batch->status[row] = IMS_MEMORY;
            snprintf(batch->messages + row * IMS_MESSAGE, IMS_MESSAGE, "no memory for an output of this size");
        }
    } else {
        pool_run(pool->threads, do_row, job, batch->count);
        for (int i = 0; batch->stages && i < pool->count; i++)
            for (int stage = 0; stage < IMS_STAGES; stage++) {
                batch->stages[stage] += pool->workers[i].stages[stage];
                pool->workers[i].stages[stage] = 0;
            }
    }
    pool_leave(pool->threads);
}

void ims_decode(ims_pool *pool, const ims_batch *batch, const ims_images *images) {
    run(&(job){pool, batch, images, NULL});
}

void ims_load(ims_pool *pool, const ims_batch *batch, const ims_records *records) {
    run(&(job){pool, batch, NULL, records});
}

static jpeg_file copy(jpeg_reader *reader, const uint8_t *data, int64_t length) {
    return reader ? jpeg_reader_copy(reader, data, (size_t)length) : (jpeg_file){NULL, 0};
}

static int32_t finish(const jpeg_reader *reader, ims_status status, char *message) {
    if (status == IMS_MEMORY)
        memcpy(message, "out of memory", sizeof "out of memory");
    else
        memcpy(message, jpeg_reader_message(reader), IMS_MESSAGE);
    return status;
}

int32_t ims_read_info(const uint8_t *data, int64_t length, ims_info *info, char *message) {
    jpeg_reader *reader = jpeg_reader_of_thread();
    jpeg_file file = copy(reader, data, length);
    return finish(reader, file.data ? jpeg_read_info(reader, file, info) : IMS_MEMORY, message);
}

int32_t ims_check(const uint8_t *data, int64_t length, ims_info *info, char *message) {
    jpeg_reader *reader = jpeg_reader_of_thread();
    jpeg_file file = copy(reader, data, length);
    return finish(reader, file.data ? jpeg_check(reader, file, info) : IMS_MEMORY, message);
}

int32_t ims_entropy_ns(const uint8_t *data, int64_t length, int32_t rows, int32_t own_huffman, int64_t *nanoseconds,
                       char *message) {
    jpeg_reader *reader = jpeg_reader_of_thread();
    jpeg_file file = copy(reader, data, length);
    ims_status status = file.data ? jpeg_entropy(reader, file, rows, own_huffman, nanoseconds) : IMS_MEMORY;
    return finish(reader, status, message);
}

uint32_t ims_crc32c(const uint8_t *data, int64_t length, int32_t portable) {
    return portable ? crc32c_portable(data, (size_t)length) : crc32c(data, (size_t)length);
}

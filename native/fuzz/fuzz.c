/* Feeds damaged JPEG files and records to every entry point, in a build that stops at the first bad access:
 *
 *     native/fuzz/run.sh fuzz 100000 IMAGE.jpg...
 *
 * Prints how the calls ended and how the memory grew. A hang ends it by SIGALRM; a crop that comes out otherwise than
 * by libjpeg and portable code alone, or than it is cut out of the whole image, and two verdicts on one file, by
 * SIGABRT. */
#define _GNU_SOURCE /* memfd_create */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "crc32c.h"
#include "imagesprint.h"
#include "random.h"

enum { SECONDS_FOR_ONE = 60, MOST_PIXELS = 16 << 20, STATUSES = IMS_BAD_PAYLOAD + 1, SIZE = 32 };

typedef struct {
    uint8_t *bytes;
    size_t length;
} file;

static file read_file(const char *path) {
    FILE *stream = fopen(path, "rb");
    if (!stream) {
        perror(path);
        exit(2);
    }
    fseek(stream, 0, SEEK_END);
    file found = {NULL, (size_t)ftell(stream)};
    rewind(stream);
    found.bytes = malloc(found.length + 1);
    found.length = fread(found.bytes, 1, found.length, stream);
    fclose(stream);
    return found;
}

/* The place of the first start-of-scan marker: what precedes it are headers. */
static size_t header_bytes(file image) {
    for (size_t i = 0; i + 1 < image.length; i++)
        if (image.bytes[i] == 0xFF && image.bytes[i + 1] == 0xDA) return i + 12;
    return image.length;
}

static void mutate(file *image) {
    size_t headers = header_bytes(*image);
    if (headers > image->length) headers = image->length;
    for (uint64_t times = 1 + draw(4); times && image->length > 4; times--) {
        size_t at = draw(draw(2) ? headers : image->length), length = 1 + draw(64);
        if (at >= image->length) at = draw(image->length);
        if (length > image->length - at) length = image->length - at;
        switch (draw(6)) {
        case 0: image->bytes[at] ^= (uint8_t)(1u << draw(8)); break;
        case 1: image->bytes[at] = (uint8_t)draw(256); break;
        case 2: image->length = at; break;
        case 3: memset(image->bytes + at, draw(2) ? 0xFF : 0, length); break;
        case 4: memmove(image->bytes + at, image->bytes + draw(image->length - length + 1), length); break;
        default:
            memmove(image->bytes + at, image->bytes + at + length, image->length - at - length);
            image->length -= length;
        }
    }
}

/* A heap copy of exactly the image's size: a read beyond its end is seen. */
static uint8_t *exact_copy(file image) {
    uint8_t *copy = malloc(image.length ? image.length : 1);
    memcpy(copy, image.bytes, image.length);
    return copy;
}

enum { CROPS = 5 };

typedef struct {
    uint8_t out[CROPS][SIZE][SIZE][3];
    char messages[CROPS][IMS_MESSAGE];
    int32_t status[CROPS];
} decoded;

/* Ends the program where libjpeg alone comes to something else: pixels, a status, its words. */
static void compare(const decoded *ours, const decoded *theirs) {
    for (int i = 0; i < CROPS; i++)
        if (ours->status[i] != theirs->status[i] || strcmp(ours->messages[i], theirs->messages[i]) ||
            (ours->status[i] == IMS_OK && memcmp(ours->out[i], theirs->out[i], sizeof ours->out[i]))) {
            fprintf(stderr, "crop %d: status %d (%s), but %d (%s) by libjpeg alone\n", i, ours->status[i],
                    ours->messages[i], theirs->status[i], theirs->messages[i]);
            abort();
        }
}

/* Ends the program where a crop of SIZE x SIZE pixels, which is not resized, has others than the whole image has there,
 * or another verdict. A baseline image is read no further than its crop: what lies below may be damaged. */
static void compare_with_whole(file image, const uint8_t *data, const ims_batch *batch, int row) {
    char message[IMS_MESSAGE];
    ims_info info;
    int64_t nanoseconds;
    ims_version whole = {.shorter_side = INT32_MAX};
    const int32_t *box = batch->crops + 4 * row;
    int sound = batch->status[row] == IMS_OK;
    if (ims_read_info(data, (int64_t)image.length, &info, message) != IMS_OK) return;
    int to_end = batch->to_end || info.progressive;
    int whole_sound = ims_shrink(data, (int64_t)image.length, &whole, 1, &info, &nanoseconds, message) == IMS_OK;
    int same = whole_sound ? sound : !(sound && to_end);
    for (int y = 0; same && whole_sound && y < SIZE; y++) {
        const uint8_t *of_whole = whole.data + ((size_t)(box[1] + y) * (size_t)info.width + (size_t)box[0]) * 3;
        same = !memcmp(of_whole, batch->out + ((size_t)row * SIZE + (size_t)y) * SIZE * 3, SIZE * 3);
    }
    ims_free(whole.data);
    if (same) return;
    fprintf(stderr, "the crop at %d, %d: status %d (%s); but the whole image: %s (%s)\n", box[0], box[1],
            batch->status[row], batch->messages + row * IMS_MESSAGE, whole_sound ? "other pixels" : "damaged", message);
    abort();
}

static void decode_crops(ims_pool *pool, ims_pool *portable, file image, const uint8_t *data, long *counts) {
    static decoded ours, theirs;
    char message[IMS_MESSAGE];
    int32_t crops[CROPS][4] = {{0, 0, 1, 1}, {3, 5, 40, 50}, {0, 0, 60000, 60000}};
    uint8_t flips[CROPS] = {0, 1, 0, 1, 0};
    int has_room = 0; /* for the last crop */
    ims_info info;
    if (ims_read_info(data, (int64_t)image.length, &info, message) == IMS_OK) {
        crops[2][2] = info.width, crops[2][3] = info.height;
        crops[3][0] = (int32_t)draw((uint64_t)info.width), crops[3][1] = (int32_t)draw((uint64_t)info.height);
        crops[3][2] = crops[3][0] + 1 + (int32_t)draw((uint64_t)(info.width - crops[3][0]));
        crops[3][3] = crops[3][1] + 1 + (int32_t)draw((uint64_t)(info.height - crops[3][1]));
        crops[4][0] = crops[3][0], crops[4][1] = crops[3][1];
        crops[4][2] = crops[4][0] + SIZE, crops[4][3] = crops[4][1] + SIZE;
        has_room = crops[4][2] <= info.width && crops[4][3] <= info.height;
        if ((int64_t)info.width * info.height > MOST_PIXELS) return; /* sound, but slow in this build */
    }
    const uint8_t *pointers[CROPS] = {data, data, data, data, data};
    int64_t length = (int64_t)image.length, lengths[CROPS] = {length, length, length, length, length};
    ims_batch batch = {.count = CROPS, .height = SIZE, .width = SIZE, .antialias = (int32_t)draw(2),
                       .to_end = (int32_t)draw(2), .crops = crops[0], .flips = flips, .out = ours.out[0][0][0],
                       .status = ours.status, .messages = ours.messages[0]};
    ims_decode(pool, &batch, &(ims_images){pointers, lengths, NULL});
    batch.out = theirs.out[0][0][0], batch.status = theirs.status, batch.messages = theirs.messages[0];
    ims_decode(portable, &batch, &(ims_images){pointers, lengths, NULL});
    compare(&ours, &theirs);
    if (has_room) compare_with_whole(image, data, &batch, CROPS - 1);
    for (int i = 0; i < CROPS; i++) counts[ours.status[i]]++;
}

static void decode_entropy(file image, const uint8_t *data, long *counts) {
    char message[IMS_MESSAGE];
    ims_info info;
    int64_t nanoseconds;
    if (ims_read_info(data, (int64_t)image.length, &info, message) != IMS_OK) return;
    if ((int64_t)info.width * info.height > MOST_PIXELS) return;
    counts[ims_entropy_ns(data, (int64_t)image.length, 0, 0, &nanoseconds, message)]++;
    int32_t rows = 1 + (int32_t)draw((uint64_t)info.height);
    ims_entropy_ns(data, (int64_t)image.length, rows, (int32_t)draw(2), &nanoseconds, message);
}

static void shrink(file image, const uint8_t *data, long *counts) {
    char message[IMS_MESSAGE];
    ims_info info;
    int64_t nanoseconds;
    if (ims_read_info(data, (int64_t)image.length, &info, message) != IMS_OK) return;
    if ((int64_t)info.width * info.height > MOST_PIXELS) return;
    ims_version versions[3] = {{.shorter_side = 1 + (int32_t)draw(400), .quality = 90},
                               {.shorter_side = 1 + (int32_t)draw(400), .quality = 0},
                               {.shorter_side = 1 + (int32_t)draw(40), .quality = 1 + (int32_t)draw(100)}};
    int32_t status = ims_shrink(data, (int64_t)image.length, versions, (int32_t)draw(4), &info, &nanoseconds, message);
    counts[status]++;
    for (int i = 0; i < 3; i++) ims_free(versions[i].data);
    char words[IMS_MESSAGE];
    if (ims_check(data, (int64_t)image.length, &info, words) == status && !strcmp(words, message)) return;
    fprintf(stderr, "status %d (%s) where the check says %s\n", status, message, words);
    abort();
}

static void put_record(int fd, file image, int damage) {
    uint8_t header[12], footer[4];
    uint64_t length = image.length;
    for (int i = 0; i < 8; i++) header[i] = (uint8_t)(length >> (8 * i));
    uint32_t crc = crc32c_masked(header, 8), payload_crc = crc32c_masked(image.bytes, image.length);
    for (int i = 0; i < 4; i++) {
        header[8 + i] = (uint8_t)(crc >> (8 * i));
        footer[i] = (uint8_t)(payload_crc >> (8 * i));
    }
    if (damage) *(draw(2) ? header + draw(12) : footer + draw(4)) ^= (uint8_t)(1u << draw(8));
    if (ftruncate(fd, 0) || pwrite(fd, header, 12, 0) != 12 || pwrite(fd, image.bytes, image.length, 12) < 0 ||
        pwrite(fd, footer, 4, 12 + (off_t)image.length) != 4) {
        perror("pwrite");
        exit(2);
    }
}

static void load_record(ims_pool *pool, int fd, file image, long *counts) {
    static uint8_t out[1][SIZE][2 * SIZE][3];
    char message[IMS_MESSAGE];
    int32_t status, crop[4] = {0, 0, 8, 8};
    uint8_t flip = 0;
    int64_t offset = draw(8) ? 0 : (int64_t)draw(64), length = (int64_t)image.length + (draw(8) ? 0 : 1);
    int64_t begin = draw(8) ? 0 : (int64_t)draw(1 << 20) - 1000, bytes = length - (draw(2) ? begin : 0);
    put_record(fd, image, draw(8) == 0);
    ims_batch batch = {.count = 1, .height = SIZE, .width = 2 * SIZE, .antialias = 1, .crops = crop, .flips = &flip,
                       .out = out[0][0][0], .status = &status, .messages = message};
    ims_load(pool, &batch, &(ims_records){&fd, &offset, &length, &begin, &bytes, NULL});
    counts[status]++;
}

static long megabytes(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss >> 10;
}

int main(int argc, char **argv) {
    long runs = argc > 2 ? atol(argv[1]) : 0, crops[STATUSES] = {0}, entropy[STATUSES] = {0}, records[STATUSES] = {0};
    long shrunk[STATUSES] = {0};
    if (runs < 1) {
        fprintf(stderr, "usage: fuzz RUNS IMAGE.jpg...\n");
        return 2;
    }
    int count = argc - 2, fd = memfd_create("shard", 0);
    file *seeds = calloc((size_t)count, sizeof *seeds);
    for (int i = 0; i < count; i++) seeds[i] = read_file(argv[2 + i]);
    ims_pool *pool = ims_create(1, 0), *portable = ims_create(1, 1);
    for (long run = 1; run <= runs; run++) {
        alarm(SECONDS_FOR_ONE);
        file seed = seeds[draw((uint64_t)count)], image = {exact_copy(seed), seed.length};
        mutate(&image);
        uint8_t *data = exact_copy(image);
        decode_crops(pool, portable, image, data, crops);
        decode_entropy(image, data, entropy);
        shrink(image, data, shrunk);
        load_record(pool, fd, image, records);
        free(data);
        free(image.bytes);
        if (run % (runs < 10 ? 1 : runs / 10) == 0) printf("%ld files, %ld MB at most\n", run, megabytes());
    }
    ims_destroy(pool);
    ims_destroy(portable);
    for (int i = 0; i < count; i++) free(seeds[i].bytes);
    free(seeds);
    for (int i = 0; i < STATUSES; i++)
        printf("status %2d: %7ld crops, %7ld entropy, %7ld shrunk, %7ld records\n", i, crops[i], entropy[i], shrunk[i],
               records[i]);
    return 0;
}

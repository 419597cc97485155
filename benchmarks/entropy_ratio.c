/* Times, image by image, the decoder and entropy decoding alone, each between two looks at whether the processor core
 * is shared with somebody else at that moment. Built and called by entropy_ratio.py:
 *
 *     entropy_ratio ROUNDS < images > times
 *
 * images: int64 count, size; int32 crops[count][4]; uint8 flips[count]; int64 lengths[count]; the JPEG files.
 * times, for each round and part: double nanoseconds[count], looks[count]. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "imagesprint.h"

enum { DECODER, WHOLE, ROWS, PARTS };
enum { MULTIPLICATIONS = 4000, ADDITIONS = 32 * 2000 };
enum { OUTPUTS = 256 }; /* as many different ones as a batch has: a single one would stay in the cache */

/* Additions in the time of one multiplication. Multiplications that wait for one another leave most of a core unused,
 * independent additions use all of it: what else runs on the core slows the second alone. */
static double look(void) {
    uint64_t chain = 1, a = 1, b = 1, c = 1, d = 1;
    int64_t began = clock_ns();
    for (int i = 0; i < MULTIPLICATIONS / 4; i++)
        __asm__ volatile("imul %0, %0\n\timul %0, %0\n\timul %0, %0\n\timul %0, %0" : "+r"(chain));
    int64_t between = clock_ns();
#define FOUR "add $1, %0\n\tadd $1, %1\n\tadd $1, %2\n\tadd $1, %3\n\t"
    for (int i = 0; i < ADDITIONS / 32; i++)
        __asm__ volatile(FOUR FOUR FOUR FOUR FOUR FOUR FOUR FOUR : "+r"(a), "+r"(b), "+r"(c), "+r"(d));
    double multiplication = (double)(between - began) / MULTIPLICATIONS;
    return multiplication * ADDITIONS / (double)(clock_ns() - between);
}

static void *take(size_t bytes) {
    void *memory = malloc(bytes + 1);
    if (memory) return memory;
    fprintf(stderr, "out of memory\n");
    exit(1);
}

static void *read_in(size_t bytes) {
    void *memory = take(bytes);
    if (fread(memory, 1, bytes, stdin) == bytes) return memory;
    fprintf(stderr, "the input is cut short\n");
    exit(1);
}

static void check(int32_t status, const char *message) {
    if (status == IMS_OK) return;
    fprintf(stderr, "status %d: %.*s\n", status, IMS_MESSAGE, message);
    exit(1);
}

static int64_t decode(ims_pool *pool, const ims_batch *batch, const ims_images *images, int64_t i) {
    ims_images image = {images->data + i, images->lengths + i, NULL};
    ims_batch one = *batch;
    one.count = 1;
    one.crops += 4 * i;
    one.flips += i;
    one.out += i % OUTPUTS * one.height * one.width * 3;
    int64_t began = clock_thread_ns();
    ims_decode(pool, &one, &image);
    int64_t nanoseconds = clock_thread_ns() - began;
    check(*one.status, one.messages);
    return nanoseconds;
}

static int64_t entropy(const ims_batch *batch, const ims_images *images, int64_t i, int part) {
    int64_t nanoseconds;
    int32_t rows = part == ROWS ? batch->crops[4 * i + 3] : 0;
    check(ims_entropy_ns(images->data[i], images->lengths[i], rows, 0, &nanoseconds, batch->messages), batch->messages);
    return nanoseconds;
}

/* One part after the other: no image is in the cache because it was just decoded. */
static void time_round(ims_pool *pool, const ims_batch *batch, const ims_images *images, double *times) {
    double *nanoseconds = times, *looks = times + batch->count;
    for (int part = 0; part < PARTS; part++, nanoseconds += 2 * batch->count, looks += 2 * batch->count) {
        double before = look();
        for (int64_t i = 0; i < batch->count; i++) {
            nanoseconds[i] = (double)(part == DECODER ? decode(pool, batch, images, i) : entropy(batch, images, i, part));
            double after = look();
            looks[i] = before < after ? before : after;
            before = after;
        }
    }
}

int main(int argc, char **argv) {
    /* What is freed is kept: whole images' coefficients would come from the system anew each time. */
    if (!mallopt(M_MMAP_THRESHOLD, 32 << 20) || !mallopt(M_TRIM_THRESHOLD, 1 << 30)) return 1;
    int64_t *head = read_in(2 * sizeof(int64_t));
    size_t count = (size_t)head[0], size = (size_t)head[1];
    int32_t status;
    int32_t side = (int32_t)size;
    ims_batch batch = {.count = head[0], .height = side, .width = side, .antialias = 1, .status = &status};
    batch.crops = read_in(count * 4 * sizeof(int32_t));
    batch.flips = read_in(count);
    batch.out = memset(take(OUTPUTS * size * size * 3), 0, OUTPUTS * size * size * 3);
    batch.messages = take(IMS_MESSAGE);
    int64_t *lengths = read_in(count * sizeof(int64_t));
    const uint8_t **data = take(count * sizeof *data);
    for (size_t i = 0; i < count; i++) data[i] = read_in((size_t)lengths[i]);
    ims_images images = {data, lengths, NULL};
    ims_pool *pool = ims_create(1, 0);
    double *times = take(PARTS * 2 * count * sizeof(double));
    if (!pool) check(IMS_MEMORY, "no memory for a decoder");
    for (int round = argc > 1 ? atoi(argv[1]) : 1; round > 0; round--) {
        time_round(pool, &batch, &images, times);
        if (fwrite(times, 2 * count * sizeof(double), PARTS, stdout) != PARTS || fflush(stdout)) return 1;
    }
    return 0;
}

/* The C interface of the native decoder: what src/imagesprint/images/native_*.py call through ctypes.
 *
 * Pixels are uint8, rows from top to bottom, RGB. A crop is left, top, right, bottom in pixels of the stored image,
 * half-open. Each row of a batch succeeds or fails by itself, with a status and, where it failed, a message.
 */
#ifndef IMAGESPRINT_H
#define IMAGESPRINT_H

#include <stddef.h>
#include <stdint.h>

#define IMS_ABI 7       /* changes whenever a struct, a status or a signature does */
#define IMS_MESSAGE 200 /* bytes of a message, its final zero included: libjpeg's JMSG_LENGTH_MAX */
#define IMS_EXPORT __attribute__((visibility("default")))

typedef enum {
    IMS_OK,
    IMS_UNSUPPORTED,    /* no JPEG that is decoded here: CMYK, 12 bits, arithmetic coding, PNG, ...; Pillow may */
    IMS_DAMAGED,        /* cut short, or libjpeg stopped, or warned of more than a remark: see jpeg_errors.c */
    IMS_TOO_LARGE,      /* more pixels than Pillow's limit, or more scans than any encoder writes */
    IMS_OUTSIDE,        /* the crop is empty or not within the image */
    IMS_MEMORY,         /* out of memory */
    IMS_UNREADABLE,     /* pread failed */
    IMS_CUT_SHORT,      /* the record reaches beyond the end of its shard */
    IMS_BAD_HEADER,     /* the record's length does not match its CRC */
    IMS_OTHER_LENGTH,   /* the record's length is sound, but not the one asked for */
    IMS_BAD_PAYLOAD     /* the record's payload does not match its CRC */
} ims_status;

/* Nanoseconds that the threads of a batch spent, summed. JPEG is entropy decoding, inverse DCT, upsampling and colour,
 * which libjpeg interleaves; ims_entropy_ns tells the first apart. */
enum { IMS_STAGE_READ, IMS_STAGE_CRC, IMS_STAGE_JPEG, IMS_STAGE_RESIZE, IMS_STAGES };

typedef struct ims_pool ims_pool;

/* What comes out of a batch of `count` images, and where it goes. */
typedef struct {
    int64_t count;
    int32_t height, width; /* of the output, 1..16384 each */
    int32_t antialias;     /* 0: four pixels are blended at each output pixel's centre */
    int32_t to_end;        /* decode each image to its end, so that damage below the crop is seen too */
    const int32_t *crops;  /* [count][4] */
    const uint8_t *flips;  /* [count] */
    uint8_t *out;          /* [count][height][width][3]; unspecified where the status is not IMS_OK */
    int32_t *status;       /* [count] */
    char *messages;        /* [count][IMS_MESSAGE]; set where the status is not IMS_OK */
    int64_t *stages;       /* [IMS_STAGES], added to; NULL does without the clock */
} ims_batch;

/* Images in memory. */
typedef struct {
    const uint8_t *const *data;
    const int64_t *lengths;
    const int32_t *raw_sizes; /* NULL: JPEG files; else [count][2], height and width of uint8 [height][width][3] */
} ims_images;

/* Images in TFRecord shards: the encoded bytes lie at `encoded_offsets` within the payload. */
typedef struct {
    const int32_t *fds;
    const int64_t *offsets; /* of the record in its shard */
    const int64_t *payload_lengths;
    const int64_t *encoded_offsets;
    const int64_t *encoded_lengths;
    const int32_t *raw_sizes; /* as above */
} ims_records;

typedef struct {
    int32_t width, height;
    int32_t components;  /* 1 or 3; after ims_check also 4 */
    int32_t progressive;
    int32_t extraneous;  /* remarks on stray bytes before a marker, as far as was read */
} ims_info;

IMS_EXPORT int32_t ims_abi(void);

/* The name of the resizer that a pool takes on this processor: "avx2" or "portable". */
IMS_EXPORT const char *ims_resizer(int32_t portable);

/* A pool of `threads` >= 1 threads, the caller's included; `portable` keeps it from processor-specific resizers,
 * and leaves Huffman codes to libjpeg.
 * One batch at a time: a second caller waits. After a fork the child's first batch starts threads of its own.
 * NULL: out of memory. */
IMS_EXPORT ims_pool *ims_create(int32_t threads, int32_t portable);
IMS_EXPORT void ims_destroy(ims_pool *pool);

IMS_EXPORT void ims_decode(ims_pool *pool, const ims_batch *batch, const ims_images *images);
IMS_EXPORT void ims_load(ims_pool *pool, const ims_batch *batch, const ims_records *records);

/* From the headers alone. Any thread may call these; `message` has room for IMS_MESSAGE bytes. */
IMS_EXPORT int32_t ims_read_info(const uint8_t *data, int64_t length, ims_info *info, char *message);

/* The same verdict as ims_shrink's, on a JPEG of any colours: for images whose pixels Pillow makes. */
IMS_EXPORT int32_t ims_check(const uint8_t *data, int64_t length, ims_info *info, char *message);

/* One version of an image: with its shorter side at `shorter_side` pixels, or as it is where that is no smaller; as a
 * JPEG of `quality`, or as pixels where that is 0. A JPEG that would be no smaller is not made. */
typedef struct {
    int32_t shorter_side, quality;
    int32_t width, height; /* from here on: the answer */
    uint8_t *data;         /* ims_free gives it back; NULL: not made */
    int64_t length;
    int64_t nanoseconds; /* that resizing and encoding took */
} ims_version;

/* Decodes a JPEG once, to its end-of-image marker, and makes `count` versions of it: resized with antialiasing, as JPEG
 * baseline, 4:2:0, with optimised Huffman tables. `nanoseconds` is what decoding took. No version has data unless this
 * is IMS_OK. */
IMS_EXPORT int32_t ims_shrink(const uint8_t *data, int64_t length, ims_version *versions, int32_t count, ims_info *info,
                              int64_t *nanoseconds, char *message);
IMS_EXPORT void ims_free(uint8_t *data);

/* Entropy decoding alone, by libjpeg: of the whole image (`rows` = 0, jpeg_read_coefficients), or down to row
 * `rows` - 1 (jpeg_skip_scanlines). With `own_huffman` (and `rows`) by ours, which is IMS_UNSUPPORTED for an image that
 * a batch leaves to libjpeg. `nanoseconds` is the thread's CPU time. */
IMS_EXPORT int32_t ims_entropy_ns(const uint8_t *data, int64_t length, int32_t rows, int32_t own_huffman,
                                  int64_t *nanoseconds, char *message);

/* CRC-32C of `length` bytes, not masked; `portable` computes it by table. */
IMS_EXPORT uint32_t ims_crc32c(const uint8_t *data, int64_t length, int32_t portable);

#endif

/* Bilinear resizing of an image that arrives row by row.
 *
 * Each row is resampled across as it arrives, while it is in the cache, and rounded to 8 bits as Pillow does; an
 * output row is blended from those rows as soon as the last of them is there. Weights are integers of WEIGHT_BITS
 * fractional bits, so every processor gives the same bytes.
 */
#ifndef IMS_RESIZE_H
#define IMS_RESIZE_H

#include "buffer.h"

#define WEIGHT_BITS 15
#define RESIZE_GROUP 8 /* output pixels that a kernel may do at a time */
#define ROW_PADDING 32 /* bytes behind a row that a resizer may read: two pixels' loads of 16 bytes */
#define ACROSS_PADDING ((RESIZE_GROUP - 1) * 3 + 4) /* bytes behind a row that it may write: the last of 16 has 12 */

/* Which input pixels make up each output pixel of one axis, and by what weights. */
typedef struct {
    int size;         /* output pixels */
    int taps;         /* weights kept for each of them: even, the same for all, zero behind its `count` */
    int32_t *first;   /* [size, up to a multiple of RESIZE_GROUP]: the last one repeats */
    int32_t *count;   /* [size] */
    int16_t *weights; /* [size][taps]; of an output they add up to 2^WEIGHT_BITS, but a whole weight is one less */
    int16_t *spread;  /* the weights once more, as a kernel wants them; see resize_avx2.c */
    buffer memory;    /* of these */
} resize_axis;

typedef struct {
    const char *name;
    /* NULL, or fills axis->spread, which has room for 4 int16 a weight, with `size` as that of `first`. */
    void (*spread)(resize_axis *axis);
    /* Resamples one row of pixels of `pixel_bytes` (3 or 4; RGB comes first) into size * 3 bytes; may write
     * ACROSS_PADDING bytes beyond, and read ROW_PADDING bytes beyond the row. */
    void (*across)(const resize_axis *axis, const uint8_t *row, int pixel_bytes, uint8_t *out);
    /* out[i] = (sum of weights[k] * rows[k][i] + bias) >> WEIGHT_BITS for i < bytes; `taps` is even. Rows may be
     * read up to the next multiple of 32 bytes; nothing beyond `bytes` is written. */
    void (*down)(const uint8_t *const *rows, const int16_t *weights, int taps, int bias, uint8_t *out, int bytes);
} resize_kernels;

extern const resize_kernels resize_portable;

/* Returns the kernels for this processor. */
const resize_kernels *resize_choose(int portable);

typedef struct {
    const resize_kernels *kernels;
    resize_axis horizontal, vertical;
    buffer ring; /* the last `vertical.taps` rows, resampled across, `stride` apart */
    buffer rows; /* pointers to `vertical.taps` of them */
    size_t stride;
    int bias;
    int pixel_bytes;
    int out_rows;
    int next_in, next_out; /* rows so far */
    int slot;              /* next_in % vertical.taps: where in the ring the next row goes */
    int place;             /* next_out % out_rows */
    uint8_t *out;
} resizer;

typedef struct {
    int width, height; /* of the input */
    int out_width, out_height;
    int flip, antialias;
    int pixel_bytes;   /* 3: RGB, 4: RGBX */
    int out_rows;      /* 0, or how many rows `out` has room for: row y then goes to place y % out_rows */
} resize_geometry;

/* Makes ready for geometry.height rows, which become uint8 [out_height][out_width][3] at `out`. IMS_OK or
 * IMS_MEMORY. */
ims_status resizer_begin(resizer *resizer, const resize_geometry *geometry, uint8_t *out);

/* Takes the next row, which has ROW_PADDING readable bytes behind it. */
void resizer_push(resizer *resizer, const uint8_t *row);

void resizer_free(resizer *resizer);

#endif

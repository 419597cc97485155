/* Reading JPEG files by libjpeg-turbo, one after another with one decompressor.
 *
 * Every call leaves the reader ready for the next file, whatever the bytes were. */
#ifndef IMS_JPEG_H
#define IMS_JPEG_H

#include "imagesprint.h"
#include "resize.h"

typedef struct jpeg_reader jpeg_reader;

typedef struct {
    const uint8_t *data; /* in memory that can be written to: the JPEG_PADDING bytes behind the file are overwritten */
    size_t length;
} jpeg_file;

#define JPEG_PADDING 16 /* of end-of-image markers: Huffman decoding looks so far ahead */

/* NULL: out of memory. */
jpeg_reader *jpeg_reader_create(void);
void jpeg_reader_destroy(jpeg_reader *reader);

/* What went wrong in the last call. */
const char *jpeg_reader_message(const jpeg_reader *reader);

/* Returns the calling thread's reader, made at the first call and destroyed with the thread; NULL: out of memory. */
jpeg_reader *jpeg_reader_of_thread(void);

/* Copies a file to where there is room behind it, until the reader's next one; without data: out of memory. */
jpeg_file jpeg_reader_copy(jpeg_reader *reader, const uint8_t *data, size_t length);

void jpeg_fill_info(const jpeg_reader *reader, ims_info *info);

ims_status jpeg_read_info(jpeg_reader *reader, jpeg_file file, ims_info *info);

/* Decodes a file of any colours to its end-of-image marker, for its verdict alone. */
ims_status jpeg_check(jpeg_reader *reader, jpeg_file file, ims_info *info);

/* How a crop is to be turned into pixels. */
typedef struct {
    const int32_t *box; /* left, top, right, bottom */
    int height, width;  /* of the output */
    int flip, antialias, to_end;
    int portable;       /* leave Huffman decoding to libjpeg */
} jpeg_crop;

/* Decodes the rows and columns that the crop needs, and resizes them into `out`, [height][width][3]. Damage
 * counts as far as is decoded, and a missing end-of-image marker. Adds to stages[IMS_STAGE_JPEG] and [IMS_STAGE_RESIZE]
 * where `stages` is not NULL. */
ims_status jpeg_read_crop(jpeg_reader *reader, jpeg_file file, const jpeg_crop *crop, resizer *resizer, uint8_t *out,
                          int64_t *stages);

/* Entropy decoding alone, see ims_entropy_ns. */
ims_status jpeg_entropy(jpeg_reader *reader, jpeg_file file, int rows, int own_huffman, int64_t *nanoseconds);

#endif

/* Huffman decoding of the usual JPEG file, in place of libjpeg's own: this looks a coefficient up at once, code and
 * value, where that takes two steps. All else remains libjpeg's, and so does the verdict on files that are damaged. */
#ifndef IMS_JPEG_HUFFMAN_H
#define IMS_JPEG_HUFFMAN_H

#include <stdint.h>
#include <stdio.h>
#include <jpeglib.h>

/* Looked up at a time. Of the coefficients of photos of quality 75 to 95, 96% end within 10 bits, 98% within 11, but
 * the tables of 11 take all of the first-level cache, and nothing was gained. */
#define LOOKUP_BITS 10

typedef struct {
    UINT8 bits[17], symbols[256]; /* what it was made from, see JHUFF_TBL */
    int made;
    int32_t whole[1 << LOOKUP_BITS]; /* what the next bits begin with, see ENTRY; 0: no coefficient that ends in them */
    uint32_t limits[17];             /* codes of so many bits or fewer, followed by any up to 16, are below this */
    int32_t offsets[17];             /* a code of so many bits and this add up to the place of its symbol */
} huffman_table;

typedef struct {
    huffman_table dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS]; /* kept from file to file: many have the same */
    int last_dc[MAX_COMPS_IN_SCAN];
    const uint8_t *next;            /* the first byte that is not in `bits` */
    uint64_t bits;                  /* those to come, the next one highest */
    int count;                      /* how many of them are the file's; below 0: more were taken than it has */
    JDIMENSION left, until_restart; /* MCUs; the latter counts where there are restart markers */
    int restart;                    /* the number of the next one, 0..7 */
    int gave_up;                    /* since the file was begun */
} jpeg_huffman;

/* Has libjpeg, which is about to read the first row, decode by the reader's `huffman` if the image is of the usual
 * kind: one scan, in Huffman codes. Returns whether it is. Where it is not sound, decoding leaves by the escape with
 * `gave_up` set: libjpeg is to try it, and to say what is wrong. */
int jpeg_huffman_attach(jpeg_huffman *huffman, j_decompress_ptr cinfo);

#endif

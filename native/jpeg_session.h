/* What the functions of jpeg.h share: a libjpeg decompressor that reads from memory, allocates from an arena, stops
 * at damage, and jumps out of libjpeg instead of ending the process. Private to jpeg*.c. */
#ifndef IMS_JPEG_SESSION_H
#define IMS_JPEG_SESSION_H

#include <setjmp.h>
#include <stdio.h>
#include <jpeglib.h>

#include "arena.h"
#include "buffer.h"
#include "jpeg.h"
#include "jpeg_huffman.h"

#ifndef JCS_EXTENSIONS
#error "imagesprint needs libjpeg-turbo, not another libjpeg"
#endif

struct jpeg_reader {
    struct jpeg_decompress_struct cinfo;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    arena arena;
    jpeg_huffman huffman;
    const uint8_t *given, *end; /* libjpeg has got the file as far as here; where it ends */
    buffer scanlines;            /* see jpeg_session_rows */
    buffer copy;                 /* see jpeg_reader_copy */
    ims_status status;
    int extraneous;
    char message[IMS_MESSAGE];
};

/* Every call into libjpeg stands below `if (setjmp(reader->escape)) return jpeg_session_end(reader);`. */

/* Starts with a file: reads its headers. Leaves by the escape where it is too large, has not 8 bits a channel, or has
 * channels that are no colours. */
void jpeg_session_begin_any(jpeg_reader *reader, jpeg_file file);

/* The same, but of those that are decoded here: others leave by the escape as IMS_UNSUPPORTED. */
void jpeg_session_begin(jpeg_reader *reader, jpeg_file file);

/* Starts decompression, which of several scans reads all. Leaves by the escape where they lack a channel: libjpeg has
 * no warning for that, and would take it for grey. */
void jpeg_session_start(jpeg_reader *reader);

/* Has libjpeg read on from another place of the file. */
void jpeg_session_go_on(jpeg_reader *reader, const uint8_t *next);

/* Has libjpeg take its fast Huffman decoder, for its time: it does not see all damage. */
void jpeg_session_give_all(jpeg_reader *reader);

/* Once the rows that are wanted are there: leaves by the escape where no end-of-image marker follows. */
void jpeg_session_find_end(jpeg_reader *reader);

/* Makes the reader ready for the next file; returns the status of this one. */
ims_status jpeg_session_end(jpeg_reader *reader);

#define ROWS 4 /* read at a time: libjpeg gives as many as chroma is subsampled by */

/* Points `rows` to scratch for that many rows of RGBX as wide as the output, each with ROW_PADDING bytes behind it. */
void jpeg_session_rows(jpeg_reader *reader, JSAMPROW rows[ROWS]);

/* Leaves by the escape. */
_Noreturn void jpeg_session_fail(jpeg_reader *reader, ims_status status);

#endif

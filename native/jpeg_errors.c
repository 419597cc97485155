#include "jpeg_errors.h"

#include <string.h>

/* jerror.h is made for being included twice: once for the codes, once more for their texts. */
#include <jerror.h>
#define JCOPYRIGHT_SHORT "" /* two texts that no error has; libjpeg defines them in a private header */
#define JVERSION ""
#define JMESSAGE(code, text) text,
static const char *const texts[] = {
#include <jerror.h>
    NULL};

#define NUM_TEXTS (int)(sizeof texts / sizeof *texts - 1)

static void format(j_common_ptr cinfo, char *buffer) {
    struct jpeg_error_mgr *errors = cinfo->err;
    int code = errors->msg_code;
    if (code <= 0 || code >= NUM_TEXTS) { /* a libjpeg newer than the header */
        snprintf(buffer, JMSG_LENGTH_MAX, "libjpeg's message %d", code);
        return;
    }
    const int *i = errors->msg_parm.i;
    if (strstr(texts[code], "%s"))
        snprintf(buffer, JMSG_LENGTH_MAX, texts[code], errors->msg_parm.s);
    else
        snprintf(buffer, JMSG_LENGTH_MAX, texts[code], i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7]);
}

static void print_nothing(j_common_ptr cinfo) { (void)cinfo; }

static void reset(j_common_ptr cinfo) {
    cinfo->err->num_warnings = 0;
    cinfo->err->msg_code = 0;
}

/* All warnings of libjpeg-turbo 2.1 to 3.2, but for those of calls that are not made here (reading an ICC profile,
 * asking for more rows than there are). djpeg, Pillow and TensorFlow go on with any; of a remark nothing is lost. */
int jpeg_errors_is_remark(int code) {
    switch (code) {
    case JWRN_JFIF_MAJOR:      /* a revision that is not 1.x: nothing that is decoded depends on it */
    case JWRN_ADOBE_XFORM:     /* a transform beyond 0, 1 and 2: taken for the usual one, YCbCr or YCCK */
    case JWRN_NOT_SEQUENTIAL:  /* the spectral selection of a scan that has all coefficients: nothing is selected */
    case JWRN_EXTRANEOUS_DATA: /* bytes between two markers or behind a scan, whose blocks are all there by then */
        return 1;
    case JWRN_HIT_MARKER:        /* a scan ended before its last block: the rest of it is grey */
    case JWRN_HUFF_BAD_CODE:     /* no such code: zero was taken in its place, and what follows is chance */
    case JWRN_ARITH_BAD_CODE:    /* the same in arithmetic coding */
    case JWRN_MUST_RESYNC:       /* a restart marker is missing or another one than expected: blocks are lost */
    case JWRN_BOGUS_PROGRESSION: /* a progressive scan refines bits that were not sent, or sends them twice */
    case JWRN_JPEG_EOF:          /* cut short; the source here makes it an error */
    default:                     /* a libjpeg newer than this table */
        return 0;
    }
}

void jpeg_errors_prepare(struct jpeg_error_mgr *errors, void (*on_error)(j_common_ptr),
                         void (*on_message)(j_common_ptr, int level)) {
    *errors = (struct jpeg_error_mgr){.error_exit = on_error,
                                      .emit_message = on_message,
                                      .output_message = print_nothing,
                                      .format_message = format,
                                      .reset_error_mgr = reset,
                                      .jpeg_message_table = texts,
                                      .last_jpeg_message = NUM_TEXTS - 1};
}

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

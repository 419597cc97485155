/* libjpeg's messages and the outline of its error manager, without jerror.c: Debian's libjpeg.a holds that one in a
 * form that cannot be linked into a shared library. */
#ifndef IMS_JPEG_ERRORS_H
#define IMS_JPEG_ERRORS_H

#include <stdio.h>
#include <jpeglib.h>

/* Fills what libjpeg's own jpeg_std_error would; `on_error` must not return, `on_message` is told of warnings (level
 * -1) and traces. Nothing is ever printed. */
void jpeg_errors_prepare(struct jpeg_error_mgr *errors, void (*on_error)(j_common_ptr),
                         void (*on_message)(j_common_ptr, int level));

/* Whether a warning (JWRN_...) is a remark: the pixels are those that the encoder meant. Any other is damage. */
int jpeg_errors_is_remark(int code);

#endif

/* The bytes of a JPEG file. */
#ifndef IMS_ENCODE_FILE_H
#define IMS_ENCODE_FILE_H

#include "encode_symbols.h"

/* Returns the file of an image of `width` by `height` pixels in `out`, which is the caller's to free. IMS_OK or
 * IMS_MEMORY. */
ims_status encode_file(int width, int height, const encode_quantisation quantisation[2], const encode_symbols *symbols,
                       uint8_t **out, int64_t *length);

#endif

/* Reading one TFRecord: little-endian uint64 length, masked CRC-32C of it, payload, masked CRC-32C of the payload. */
#ifndef IMS_RECORD_H
#define IMS_RECORD_H

#include "buffer.h"

/* Reads and checks the record at byte `offset` of the shard `fd`, whose payload has `length` bytes; `*payload` then
 * lies in `buffer`, with `padding` bytes of it behind. Adds to stages[IMS_STAGE_READ] and [IMS_STAGE_CRC] where
 * `stages` is not NULL. */
ims_status record_read(buffer *buffer, int fd, int64_t offset, int64_t length, size_t padding, uint8_t **payload,
                       int64_t *stages, char *message);

#endif

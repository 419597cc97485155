/* Bytes that are kept from one image to the next. */
#ifndef IMS_BUFFER_H
#define IMS_BUFFER_H

#include <stdlib.h>

#include "imagesprint.h"

typedef struct {
    uint8_t *bytes; /* aligned to BUFFER_ALIGNMENT */
    size_t capacity;
} buffer;

#define BUFFER_ALIGNMENT 64
#define BUFFER_KEPT ((size_t)16 << 20) /* one that grew larger is given back at the next call */

static inline void buffer_free(buffer *buffer) {
    free(buffer->bytes);
    buffer->bytes = NULL;
    buffer->capacity = 0;
}

/* Makes room for `wanted` bytes; what was there is lost. IMS_OK or IMS_MEMORY. */
static inline ims_status buffer_reserve(buffer *buffer, size_t wanted) {
    if (buffer->capacity > BUFFER_KEPT) buffer_free(buffer);
    if (buffer->capacity >= wanted) return IMS_OK;
    buffer_free(buffer);
    size_t capacity = wanted + wanted / 4; /* grows a few times, not with every larger image */
    capacity = (capacity + BUFFER_ALIGNMENT - 1) & ~(size_t)(BUFFER_ALIGNMENT - 1);
    buffer->bytes = aligned_alloc(BUFFER_ALIGNMENT, capacity);
    if (!buffer->bytes) return IMS_MEMORY;
    buffer->capacity = capacity;
    return IMS_OK;
}

#endif

#include "record.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "crc32c.h"

#define LENGTH_BYTES 8
#define CRC_BYTES 4
#define HEADER_BYTES (LENGTH_BYTES + CRC_BYTES)
#define FRAME_BYTES (HEADER_BYTES + CRC_BYTES)
#define MOST_BYTES ((int64_t)1 << 31) /* TFRecord knows longer payloads; no image is one */

static uint64_t little_endian(const uint8_t *bytes, int count) {
    uint64_t value = 0;
    for (int i = count - 1; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

/* Fills `bytes` as far as the file reaches; returns how far that was, or -1 with errno set. */
static int64_t read_fully(int fd, uint8_t *bytes, int64_t wanted, int64_t offset) {
    int64_t done = 0;
    while (done < wanted) {
        ssize_t count = pread(fd, bytes + done, (size_t)(wanted - done), offset + done);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return -1;
        if (count == 0) break;
        done += count;
    }
    return done;
}

static ims_status check(const uint8_t *record, int64_t length, char *message) {
    if (little_endian(record + LENGTH_BYTES, CRC_BYTES) != crc32c_masked(record, LENGTH_BYTES)) {
        snprintf(message, IMS_MESSAGE, "has a damaged header (its length does not match its CRC-32C)");
        return IMS_BAD_HEADER;
    }
    uint64_t stored = little_endian(record, LENGTH_BYTES);
    if (stored != (uint64_t)length) {
        snprintf(message, IMS_MESSAGE, "is %llu bytes long, not %lld as the index has it", (unsigned long long)stored,
                 (long long)length);
        return IMS_OTHER_LENGTH;
    }
    const uint8_t *payload = record + HEADER_BYTES;
    if (little_endian(payload + length, CRC_BYTES) != crc32c_masked(payload, (size_t)length)) {
        snprintf(message, IMS_MESSAGE, "does not match its CRC-32C");
        return IMS_BAD_PAYLOAD;
    }
    return IMS_OK;
}

ims_status record_read(buffer *buffer, int fd, int64_t offset, int64_t length, size_t padding, uint8_t **payload,
                       int64_t *stages, char *message) {
    int64_t bytes = length + FRAME_BYTES;
    if (length < 0 || length > MOST_BYTES || buffer_reserve(buffer, (size_t)bytes + padding) != IMS_OK) {
        snprintf(message, IMS_MESSAGE, "no memory for a record of %lld bytes", (long long)length);
        return IMS_MEMORY;
    }
    int64_t began = stages ? clock_ns() : 0;
    int64_t found = read_fully(fd, buffer->bytes, bytes, offset);
    if (found < 0) {
        snprintf(message, IMS_MESSAGE, "cannot be read: %s", strerror(errno));
        return IMS_UNREADABLE;
    }
    if (found < bytes) {
        snprintf(message, IMS_MESSAGE, "is cut short: %lld of %lld bytes are there", (long long)found,
                 (long long)bytes);
        return IMS_CUT_SHORT;
    }
    int64_t have_read = stages ? clock_ns() : 0;
    ims_status status = check(buffer->bytes, length, message);
    if (stages) {
        stages[IMS_STAGE_READ] += have_read - began;
        stages[IMS_STAGE_CRC] += clock_ns() - have_read;
    }
    *payload = buffer->bytes + HEADER_BYTES;
    return status;
}

/* CRC-32C (Castagnoli): polynomial 0x1EDC6F41, reflected, as TFRecord uses it. */
#ifndef IMS_CRC32C_H
#define IMS_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Returns the CRC, not masked, by the processor's instruction where it has one. */
uint32_t crc32c(const uint8_t *data, size_t length);

/* The same by table. */
uint32_t crc32c_portable(const uint8_t *data, size_t length);

/* Returns the CRC rotated and offset as TFRecord stores it. */
static inline uint32_t crc32c_masked(const uint8_t *data, size_t length) {
    uint32_t crc = crc32c(data, length);
    return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

#endif

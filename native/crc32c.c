#include "crc32c.h"

#include <pthread.h>
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <sys/auxv.h>
#endif

#define POLYNOMIAL 0x82F63B78u /* reflected */

/* The instruction takes three cycles but one can start each cycle: three lanes of this many bytes run side by side,
 * and are joined by running the first two CRCs over the zeros that follow them. */
#define LANE 1360

static uint32_t byte_table[8][256]; /* [k][b]: byte b followed by k zero bytes */
static uint32_t lane_table[4][256]; /* [k][b]: byte k of a CRC, b, followed by LANE zero bytes */
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static uint32_t over_zeros(uint32_t crc, size_t count) {
    while (count--) crc = (crc >> 8) ^ byte_table[0][crc & 0xFF];
    return crc;
}

static void make_tables(void) {
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? POLYNOMIAL : 0);
        byte_table[0][b] = crc;
    }
    for (int k = 1; k < 8; k++)
        for (uint32_t b = 0; b < 256; b++) byte_table[k][b] = over_zeros(byte_table[k - 1][b], 1);
    for (int k = 0; k < 4; k++) {
        uint32_t of_bit[8]; /* a CRC is linear: that of a byte is the sum of those of its bits */
        for (int bit = 0; bit < 8; bit++) of_bit[bit] = over_zeros(1u << (8 * k + bit), LANE);
        for (uint32_t b = 0; b < 256; b++) {
            lane_table[k][b] = 0;
            for (int bit = 0; bit < 8; bit++)
                if (b >> bit & 1) lane_table[k][b] ^= of_bit[bit];
        }
    }
}

static uint64_t load64(const uint8_t *data) {
    uint64_t value;
    memcpy(&value, data, 8);
    return value;
}

uint32_t crc32c_portable(const uint8_t *data, size_t length) {
    pthread_once(&tables_once, make_tables);
    uint32_t crc = ~0u;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t word = load64(data) ^ crc;
        crc = 0;
        for (int k = 0; k < 8; k++) crc ^= byte_table[7 - k][word >> (8 * k) & 0xFF];
    }
#endif
    for (; length; data++, length--) crc = (crc >> 8) ^ byte_table[0][(crc ^ *data) & 0xFF];
    return ~crc;
}

#if defined(__x86_64__)
#define HARDWARE __attribute__((target("sse4.2,crc32")))
#define CRC64(crc, word) ((uint32_t)_mm_crc32_u64(crc, word))
#define CRC8(crc, byte) _mm_crc32_u8(crc, byte)
static int has_instruction(void) { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__) && defined(__linux__)
#define HARDWARE __attribute__((target("+crc")))
#define CRC64(crc, word) __crc32cd(crc, word)
#define CRC8(crc, byte) __crc32cb(crc, byte)
static int has_instruction(void) { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
#endif

#ifdef HARDWARE
static uint32_t over_lane(uint32_t crc) {
    return lane_table[0][crc & 0xFF] ^ lane_table[1][crc >> 8 & 0xFF] ^ lane_table[2][crc >> 16 & 0xFF] ^
           lane_table[3][crc >> 24];
}

HARDWARE static uint32_t crc32c_hardware(const uint8_t *data, size_t length) {
    uint32_t crc = ~0u;
    for (; length >= 3 * LANE; data += 3 * LANE, length -= 3 * LANE) {
        uint32_t second = 0, third = 0;
        for (size_t i = 0; i < LANE; i += 8) {
            crc = CRC64(crc, load64(data + i));
            second = CRC64(second, load64(data + LANE + i));
            third = CRC64(third, load64(data + 2 * LANE + i));
        }
        crc = over_lane(over_lane(crc) ^ second) ^ third;
    }
    for (; length >= 8; data += 8, length -= 8) crc = CRC64(crc, load64(data));
    for (; length; data++, length--) crc = CRC8(crc, *data);
    return ~crc;
}
#endif

uint32_t crc32c(const uint8_t *data, size_t length) {
#ifdef HARDWARE
    if (has_instruction()) {
        pthread_once(&tables_once, make_tables);
        return crc32c_hardware(data, length);
    }
#endif
    return crc32c_portable(data, length);
}

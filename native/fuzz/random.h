/* Random numbers that are the same in every run. */
#ifndef IMS_RANDOM_H
#define IMS_RANDOM_H

#include <stdint.h>

/* Returns 0 to `below` - 1, by xorshift64*. */
static inline uint64_t draw(uint64_t below) {
    static uint64_t state = 0x9E3779B97F4A7C15u;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (state * 0x2545F4914F6CDD1Du >> 16) % below;
}

#endif

#ifndef IMS_CLOCK_H
#define IMS_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline int64_t clock_of(clockid_t id) {
    struct timespec now;
    clock_gettime(id, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Returns nanoseconds of a clock that only goes forward. */
static inline int64_t clock_ns(void) { return clock_of(CLOCK_MONOTONIC); }

/* Returns nanoseconds of CPU time that this thread has had. */
static inline int64_t clock_thread_ns(void) { return clock_of(CLOCK_THREAD_CPUTIME_ID); }

#endif

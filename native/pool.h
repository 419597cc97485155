/* A pool of threads that work through the rows of one batch at a time, the caller's own thread among them. */
#ifndef IMS_POOL_H
#define IMS_POOL_H

#include <stdint.h>

typedef struct pool pool;

/* Does row `row` of `job` in thread `thread`, 0 .. threads - 1; a thread is in no two rows at a time. */
typedef void (*pool_task)(void *job, int thread, int64_t row);

/* `threads` >= 1. The threads start with the first batch. NULL: out of memory. */
pool *pool_create(int threads);

/* Ends the threads. In a forked child, which has none, it only gives the memory back, and returns 1. */
int pool_destroy(pool *pool);

/* Returns 1 if the process has forked since the last batch, whose threads' own data may then be in any state. */
int pool_enter(pool *pool);

/* Does all rows and returns; between pool_enter and pool_leave. */
void pool_run(pool *pool, pool_task task, void *job, int64_t count);

/* Lets the next caller enter. */
void pool_leave(pool *pool);

#endif

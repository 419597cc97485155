#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct {
    pool *pool;
    int number;
} member;

struct pool {
    int threads;       /* wanted, the caller's included */
    int started;       /* besides the caller's; fewer where the system gives no more */
    pid_t pid;         /* of the process that the threads live in */
    pthread_t *ids;
    member *members;
    pthread_mutex_t entrance; /* one batch at a time */
    pthread_mutex_t lock;     /* what follows */
    pthread_cond_t work, done;
    uint64_t batch;    /* counts up; a thread takes part once in each */
    int busy;          /* threads that have not finished the batch */
    int closing;
    pool_task task;
    void *job;
    int64_t count;
    atomic_llong next; /* row */
};

static void prepare_locks(pool *pool) {
    pthread_mutex_init(&pool->entrance, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
}

pool *pool_create(int threads) {
    pool *made = calloc(1, sizeof *made);
    if (!made) return NULL;
    made->threads = threads;
    made->pid = getpid();
    made->ids = calloc((size_t)threads, sizeof *made->ids);
    made->members = calloc((size_t)threads, sizeof *made->members);
    prepare_locks(made);
    if (made->ids && made->members) return made;
    pool_destroy(made);
    return NULL;
}

static void do_rows(pool *pool, int thread) {
    int64_t row;
    while ((row = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed)) < pool->count)
        pool->task(pool->job, thread, row);
}

static void *live(void *argument) {
    member *self = argument;
    pool *pool = self->pool;
    uint64_t seen = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (pool->batch == seen && !pool->closing) pthread_cond_wait(&pool->work, &pool->lock);
        if (pool->closing) break;
        seen = pool->batch;
        pthread_mutex_unlock(&pool->lock);
        do_rows(pool, self->number);
        pthread_mutex_lock(&pool->lock);
        if (--pool->busy == 0) pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static void start_threads(pool *pool) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* inherited: signals stay with the threads of the program */
    while (pool->started < pool->threads - 1) {
        member *next = &pool->members[pool->started];
        *next = (member){pool, pool->started + 1};
        if (pthread_create(&pool->ids[pool->started], NULL, live, next) != 0) break; /* fewer do the work */
        pool->started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int pool_destroy(pool *pool) {
    int forked = pool->pid != getpid();
    if (!forked) {
        pthread_mutex_lock(&pool->entrance); /* a batch under way ends first */
        pthread_mutex_lock(&pool->lock);
        pool->closing = 1;
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->lock);
        for (int i = 0; i < pool->started; i++) pthread_join(pool->ids[i], NULL);
    }
    free(pool->ids);
    free(pool->members);
    free(pool);
    return forked;
}

int pool_enter(pool *pool) {
    int forked = pool->pid != getpid();
    if (forked) { /* the parent's threads are not here, and its locks may have been held */
        prepare_locks(pool);
        pool->pid = getpid();
        pool->started = pool->busy = 0;
        pool->batch = 0;
    }
    pthread_mutex_lock(&pool->entrance);
    return forked;
}

void pool_run(pool *pool, pool_task task, void *job, int64_t count) {
    if (count > 1 && pool->started < pool->threads - 1) start_threads(pool);
    pthread_mutex_lock(&pool->lock);
    pool->task = task;
    pool->job = job;
    pool->count = count;
    atomic_store(&pool->next, 0);
    pool->busy = count > 1 ? pool->started : 0;
    if (pool->busy) {
        pool->batch++;
        pthread_cond_broadcast(&pool->work);
    }
    pthread_mutex_unlock(&pool->lock);
    do_rows(pool, 0);
    pthread_mutex_lock(&pool->lock);
    while (pool->busy) pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void pool_leave(pool *pool) { pthread_mutex_unlock(&pool->entrance); }

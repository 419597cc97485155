#include "arena.h"

#include <stdint.h>
#include <stdlib.h>

#define ALIGNMENT 64
#define SMALLEST ((size_t)256 << 10)
#define KEPT ((size_t)16 << 20)

struct arena_block {
    arena_block *older;
    size_t size; /* of what follows the header */
};

#define HEADER ALIGNMENT /* keeps what follows it aligned */

static size_t round_up(size_t bytes) { return (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1); }

static int add_block(arena *arena, size_t size) {
    arena_block *block = aligned_alloc(ALIGNMENT, HEADER + size);
    if (!block) return 0;
    *block = (arena_block){arena->blocks, size};
    arena->blocks = block;
    arena->used = 0;
    return 1;
}

void *arena_take(arena *arena, size_t bytes) {
    if (bytes > SIZE_MAX / 4) return NULL;
    bytes = round_up(bytes);
    if (!arena->blocks || arena->blocks->size - arena->used < bytes)
        if (!add_block(arena, bytes > SMALLEST ? bytes : SMALLEST)) return NULL;
    uint8_t *memory = (uint8_t *)arena->blocks + HEADER + arena->used;
    arena->used += bytes;
    arena->total += bytes;
    return memory;
}

void arena_reset(arena *arena) {
    size_t total = arena->total;
    if (arena->blocks && (arena->blocks->older || arena->blocks->size > KEPT)) {
        arena_free(arena);
        if (total <= KEPT) add_block(arena, total); /* if there is no memory now, the next taker says so */
    }
    arena->used = arena->total = 0;
}

void arena_free(arena *arena) {
    while (arena->blocks) {
        arena_block *older = arena->blocks->older;
        free(arena->blocks);
        arena->blocks = older;
    }
    arena->used = arena->total = 0;
}

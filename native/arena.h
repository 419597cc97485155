/* Memory for one image after another: libjpeg asks for some dozens of pieces an image, which malloc would give back
 * to the system and fetch again each time. */
#ifndef IMS_ARENA_H
#define IMS_ARENA_H

#include <stddef.h>

typedef struct arena_block arena_block;

typedef struct {
    arena_block *blocks; /* the newest first */
    size_t used;         /* of the newest */
    size_t total;        /* taken since the last reset, over all blocks */
} arena;

/* Returns `bytes` of memory, aligned to 64, valid until the reset; NULL: out of memory. */
void *arena_take(arena *arena, size_t bytes);

/* Takes everything back, and keeps one block as large as was needed, up to a limit. */
void arena_reset(arena *arena);

void arena_free(arena *arena);

#endif

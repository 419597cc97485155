#include "resize.h"

#include "resize_axis.h"

extern const resize_kernels resize_avx2;

static void across(const resize_axis *axis, const uint8_t *row, int pixel_bytes, uint8_t *out) {
    for (int x = 0; x < axis->size; x++) {
        const uint8_t *pixel = row + (ptrdiff_t)axis->first[x] * pixel_bytes;
        const int16_t *weights = axis->weights + (ptrdiff_t)x * axis->taps;
        int32_t red = 1 << (WEIGHT_BITS - 1), green = red, blue = red;
        for (int k = 0; k < axis->count[x]; k++, pixel += pixel_bytes) {
            red += weights[k] * pixel[0];
            green += weights[k] * pixel[1];
            blue += weights[k] * pixel[2];
        }
        out[3 * x] = (uint8_t)(red >> WEIGHT_BITS);
        out[3 * x + 1] = (uint8_t)(green >> WEIGHT_BITS);
        out[3 * x + 2] = (uint8_t)(blue >> WEIGHT_BITS);
    }
}

static void down(const uint8_t *const *rows, const int16_t *weights, int taps, int bias, uint8_t *out, int bytes) {
    enum { BLOCK = 64 };
    for (int begin = 0; begin < bytes; begin += BLOCK) {
        int count = bytes - begin < BLOCK ? bytes - begin : BLOCK;
        int32_t sums[BLOCK];
        for (int i = 0; i < count; i++) sums[i] = bias;
        for (int k = 0; k < taps; k++)
            for (int i = 0; i < count; i++) sums[i] += weights[k] * rows[k][begin + i];
        for (int i = 0; i < count; i++) out[begin + i] = (uint8_t)(sums[i] >> WEIGHT_BITS);
    }
}

const resize_kernels resize_portable = {"portable", NULL, across, down};

const resize_kernels *resize_choose(int portable) {
#if defined(__x86_64__)
    if (!portable && __builtin_cpu_supports("avx2")) return &resize_avx2;
#endif
    (void)portable;
    return &resize_portable;
}

ims_status resizer_begin(resizer *resizer, const resize_geometry *geometry, uint8_t *out) {
    const resize_geometry *g = geometry;
    if (resize_axis_plan(&resizer->horizontal, g->width, g->out_width, g->antialias, g->flip) != IMS_OK)
        return IMS_MEMORY;
    if (resize_axis_plan(&resizer->vertical, g->height, g->out_height, g->antialias, 0) != IMS_OK) return IMS_MEMORY;
    if (resizer->kernels->spread) resizer->kernels->spread(&resizer->horizontal);
    resizer->stride = ((size_t)g->out_width * 3 + ACROSS_PADDING + 31) & ~(size_t)31;
    size_t taps = (size_t)resizer->vertical.taps;
    if (buffer_reserve(&resizer->ring, taps * resizer->stride) != IMS_OK) return IMS_MEMORY;
    if (buffer_reserve(&resizer->rows, taps * sizeof(uint8_t *)) != IMS_OK) return IMS_MEMORY;
    /* Pillow's resize rounds, its transform cuts off; a whole weight lacks up to 255 / 2^15, see resize_axis.c. */
    resizer->bias = g->antialias ? 1 << (WEIGHT_BITS - 1) : 256;
    resizer->pixel_bytes = g->pixel_bytes;
    resizer->out_rows = g->out_rows ? g->out_rows : g->out_height;
    resizer->next_in = resizer->next_out = resizer->slot = resizer->place = 0;
    resizer->out = out;
    return IMS_OK;
}

static uint8_t *ring_row(const resizer *resizer, int slot) {
    return resizer->ring.bytes + (size_t)slot * resizer->stride;
}

static int next_in_circle(int place, int size) { return place + 1 == size ? 0 : place + 1; }

/* Called as soon as the last row that the output row needs is there: its first is at most `taps` rows back. */
static void emit(resizer *resizer) {
    const resize_axis *axis = &resizer->vertical;
    int y = resizer->next_out++;
    int taps = (axis->count[y] + 1) & ~1; /* the odd one more has no weight, whatever lies in the ring */
    const uint8_t **rows = (const uint8_t **)(void *)resizer->rows.bytes;
    int slot = resizer->slot - (resizer->next_in - axis->first[y]);
    if (slot < 0) slot += axis->taps;
    for (int k = 0; k < taps; k++, slot = next_in_circle(slot, axis->taps)) rows[k] = ring_row(resizer, slot);
    int bytes = resizer->horizontal.size * 3;
    resizer->kernels->down(rows, axis->weights + (ptrdiff_t)y * axis->taps, taps, resizer->bias,
                           resizer->out + (ptrdiff_t)resizer->place * bytes, bytes);
    resizer->place = next_in_circle(resizer->place, resizer->out_rows);
}

void resizer_push(resizer *resizer, const uint8_t *row) {
    const resize_axis *axis = &resizer->vertical;
    int number = resizer->next_in++, slot = resizer->slot;
    resizer->slot = next_in_circle(slot, axis->taps);
    if (resizer->next_out == axis->size || number < axis->first[resizer->next_out]) return;
    resizer->kernels->across(&resizer->horizontal, row, resizer->pixel_bytes, ring_row(resizer, slot));
    while (resizer->next_out < axis->size &&
           axis->first[resizer->next_out] + axis->count[resizer->next_out] - 1 <= number)
        emit(resizer);
}

void resizer_free(resizer *resizer) {
    resize_axis_free(&resizer->horizontal);
    resize_axis_free(&resizer->vertical);
    buffer_free(&resizer->ring);
    buffer_free(&resizer->rows);
}

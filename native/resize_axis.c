#include "resize_axis.h"

#include <math.h>
#include <string.h>

#include "vectorised.h"

#define ONE (1 << WEIGHT_BITS)
#define LARGEST 32767 /* in 16 bits; rounded, it still gives every value back as the only weight */

static size_t padded_size(int size) { return ((size_t)size + RESIZE_GROUP - 1) & ~(size_t)(RESIZE_GROUP - 1); }

/* Lays the four arrays out in one buffer. */
static ims_status reserve(resize_axis *axis, int size, int taps) {
    size_t padded = padded_size(size);
    size_t firsts = (padded * sizeof(int32_t) + 31) & ~(size_t)31;
    size_t weights = ((size_t)size * (size_t)taps * sizeof(int16_t) + 31) & ~(size_t)31;
    size_t spread = padded * (size_t)taps * 4 * sizeof(int16_t);
    if (buffer_reserve(&axis->memory, 2 * firsts + weights + spread) != IMS_OK) return IMS_MEMORY;
    uint8_t *memory = axis->memory.bytes;
    axis->spread = (int16_t *)memory;
    axis->first = (int32_t *)(memory + spread);
    axis->count = (int32_t *)(memory + spread + firsts);
    axis->weights = (int16_t *)(memory + spread + 2 * firsts);
    axis->size = size;
    axis->taps = taps;
    return IMS_OK;
}

/* Weights `share` / `total`, rounded so that they add up to ONE: rounded each by itself, the thousands of small ones
 * of a strong reduction would make the image lighter or darker. */
typedef struct {
    double factor; /* ONE / total */
    double sum;
    int given;
} rounding;

static int16_t round_weight(rounding *state, double share) {
    state->sum += share;
    int upto = (int)(state->sum * state->factor + 0.5);
    int weight = upto - state->given;
    state->given = upto;
    return (int16_t)(weight > LARGEST ? LARGEST : weight);
}

/* The height at pixel `i` of a triangle that falls to 0 at `support` from its centre; not normalised. */
static double triangle(int i, double centre, double support) {
    double height = support - fabs(i + 0.5 - centre);
    return height > 0.0 ? height : 0.0;
}

/* As precompute_coeffs in Pillow's src/libImaging/Resample.c. Always goes through all `taps`, with no weight behind the
 * last pixel: how many there are changes from output to output, which processors predict badly. */
INLINED void plan_triangle(resize_axis *axis, int at, int output, int input, double scale, int taps) {
    double support = scale > 1.0 ? scale : 1.0;
    double centre = (output + 0.5) * scale;
    int first = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
    if (first < 0) first = 0;
    if (end > input) end = input;
    double total = 0.0;
    for (int i = first; i < first + taps; i++) total += i < end ? triangle(i, centre, support) : 0.0;
    rounding state = {.factor = ONE / total};
    int16_t *weights = axis->weights + (size_t)at * (size_t)taps;
    for (int i = first; i < first + taps; i++)
        weights[i - first] = round_weight(&state, i < end ? triangle(i, centre, support) : 0.0);
    axis->first[at] = first;
    axis->count[at] = end - first;
}

INLINED void plan_triangles(resize_axis *axis, int input, double scale, int mirror, int taps) {
    for (int output = 0; output < axis->size; output++)
        plan_triangle(axis, mirror ? axis->size - 1 - output : output, output, input, scale, taps);
}

/* As bilinear_filter32RGB in Pillow's src/libImaging/Geometry.c. */
static void plan_nearest_two(resize_axis *axis, int at, int output, int input, double scale) {
    double position = (output + 0.5) * scale - 0.5;
    int first = (int)floor(position);
    double share = position - first;
    int16_t *weights = axis->weights + (size_t)at * (size_t)axis->taps;
    int inside = first >= 0 && first + 1 < input;
    rounding state = {.factor = ONE};
    weights[0] = round_weight(&state, inside ? 1.0 - share : 1.0);
    weights[1] = inside ? round_weight(&state, share) : 0;
    axis->first[at] = first < 0 ? 0 : first < input ? first : input - 1;
    axis->count[at] = 1 + inside;
}

static void plan_nearest_twos(resize_axis *axis, int input, double scale, int mirror) {
    for (int output = 0; output < axis->size; output++)
        plan_nearest_two(axis, mirror ? axis->size - 1 - output : output, output, input, scale);
}

/* Moves the weights of output `at` from rows of `taps` to rows of `most`, and its first pixel to the left where there
 * would be less than `most` pixels from there: no kernel then reads far beyond the input. */
static void pack(resize_axis *axis, int at, int taps, int most, int input) {
    const int16_t *from = axis->weights + (size_t)at * (size_t)taps;
    int16_t *to = axis->weights + (size_t)at * (size_t)most;
    int shift = axis->first[at] + most - input;
    if (shift > axis->first[at]) shift = axis->first[at];
    if (shift < 0) shift = 0;
    if (shift == 0 && most == taps) return;
    memmove(to + shift, from, (size_t)(most - shift) * sizeof *to);
    memset(to, 0, (size_t)shift * sizeof *to);
    axis->first[at] -= shift;
    axis->count[at] += shift;
}

ims_status resize_axis_plan(resize_axis *axis, int input, int size, int antialias, int mirror) {
    double scale = (double)input / size;
    int taps = antialias && scale > 1.0 ? ((int)(2.0 * scale) + 2) & ~1 : 2; /* at most 2 * scale + 1 pixels, even */
    if (reserve(axis, size, taps) != IMS_OK) return IMS_MEMORY;
    if (!antialias)
        plan_nearest_twos(axis, input, scale, mirror);
    else if (taps == 2) /* the common numbers get loops of their own, which the compiler unrolls */
        plan_triangles(axis, input, scale, mirror, 2);
    else if (taps == 4)
        plan_triangles(axis, input, scale, mirror, 4);
    else
        plan_triangles(axis, input, scale, mirror, taps);
    int most = 1;
    for (int at = 0; at < size; at++) most = axis->count[at] > most ? axis->count[at] : most;
    most = (most + 1) & ~1;
    for (int at = 0; at < size; at++) pack(axis, at, taps, most, input);
    for (size_t at = (size_t)size; at < padded_size(size); at++) axis->first[at] = axis->first[size - 1];
    axis->taps = most;
    return IMS_OK;
}

void resize_axis_free(resize_axis *axis) { buffer_free(&axis->memory); }

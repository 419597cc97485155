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

/* Outputs planned at a time, each step for all of them: loops that the compiler turns into SIMD code. */
#define PLANNED 16

typedef struct {
    double centre[PLANNED];
    double first[PLANNED], end[PLANNED]; /* whole */
    double factor[PLANNED];              /* ONE / the sum of the heights */
} planned;

/* The height at pixel `i` behind the first of a triangle that falls to 0 at `support` from its centre; none behind the
 * last pixel; not normalised. */
INLINED double triangle(const planned *plan, int output, int i, double support) {
    double pixel = plan->first[output] + i;
    double height = support - fabs(pixel + 0.5 - plan->centre[output]);
    return height > 0.0 && pixel < plan->end[output] ? height : 0.0;
}

/* As precompute_coeffs in Pillow's src/libImaging/Resample.c. There, too, rounding may count one pixel more than the
 * triangle is wide (48 to 176, output 27): it has no height, and here no room. */
INLINED void plan_pixels(planned *plan, int begin, int size, int input, double scale, double support, int taps) {
    for (int j = 0; j < PLANNED; j++) {
        int output = begin + j < size ? begin + j : size - 1;
        double centre = (output + 0.5) * scale;
        double first = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
        plan->centre[j] = centre;
        plan->first[j] = first > 0.0 ? first : 0.0;
        end = end < input ? end : input;
        plan->end[j] = end < plan->first[j] + taps ? end : plan->first[j] + taps;
    }
    double total[PLANNED] = {0};
    for (int i = 0; i < taps; i++)
        for (int j = 0; j < PLANNED; j++) total[j] += triangle(plan, j, i, support);
    for (int j = 0; j < PLANNED; j++) plan->factor[j] = ONE / total[j];
}

/* Plans outputs from `begin` on. Always goes through all `taps`, with no weight behind the last pixel: how many there
 * are changes from output to output. Weights are rounded so that they add up to ONE: rounded each by itself, the
 * thousands of small ones of a strong reduction would make the image lighter or darker. */
INLINED void plan_some(resize_axis *axis, int begin, int input, double scale, int mirror, int taps) {
    double support = scale > 1.0 ? scale : 1.0;
    int count = axis->size - begin < PLANNED ? axis->size - begin : PLANNED;
    int at = mirror ? axis->size - 1 - begin : begin, step = mirror ? -1 : 1;
    planned plan;
    plan_pixels(&plan, begin, axis->size, input, scale, support, taps);
    double sum[PLANNED] = {0};
    int32_t given[PLANNED] = {0}, weight[PLANNED];
    for (int i = 0; i < taps; i++) {
        for (int j = 0; j < PLANNED; j++) {
            sum[j] += triangle(&plan, j, i, support);
            int32_t upto = (int32_t)(sum[j] * plan.factor[j] + 0.5);
            weight[j] = upto - given[j] < LARGEST ? upto - given[j] : LARGEST;
            given[j] = upto;
        }
        for (int j = 0; j < count; j++) axis->weights[(ptrdiff_t)(at + j * step) * taps + i] = (int16_t)weight[j];
    }
    for (int j = 0; j < count; j++) {
        axis->first[at + j * step] = (int32_t)plan.first[j];
        axis->count[at + j * step] = (int32_t)(plan.end[j] - plan.first[j]);
    }
}

INLINED void plan_by(resize_axis *axis, int input, double scale, int mirror, int taps) {
    for (int begin = 0; begin < axis->size; begin += PLANNED) plan_some(axis, begin, input, scale, mirror, taps);
}

/* The common numbers of taps get loops of their own, which the compiler unrolls. */
VECTORISED static void plan_triangles(resize_axis *axis, int input, double scale, int mirror, int taps) {
    switch (taps) {
    case 2: plan_by(axis, input, scale, mirror, 2); break;
    case 4: plan_by(axis, input, scale, mirror, 4); break;
    case 6: plan_by(axis, input, scale, mirror, 6); break;
    default: plan_by(axis, input, scale, mirror, taps);
    }
}

/* As bilinear_filter32RGB in Pillow's src/libImaging/Geometry.c. */
static void plan_nearest_two(resize_axis *axis, int at, int output, int input, double scale) {
    double position = (output + 0.5) * scale - 0.5;
    int first = (int)floor(position);
    double share = position - first;
    int16_t *weights = axis->weights + (size_t)at * (size_t)axis->taps;
    int inside = first >= 0 && first + 1 < input;
    int second = inside ? ONE - (int)((1.0 - share) * ONE + 0.5) : 0;
    weights[0] = (int16_t)(ONE - second < LARGEST ? ONE - second : LARGEST);
    weights[1] = (int16_t)(second < LARGEST ? second : LARGEST);
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

#ifndef IMS_RESIZE_AXIS_H
#define IMS_RESIZE_AXIS_H

#include "resize.h"

/* Works out which of `input` pixels make up each of `size` output pixels. With `antialias` as Pillow's resize with
 * BILINEAR has it (a triangle as wide as the reduction), else as its transform by EXTENT (the two nearest).
 * `mirror` numbers the output pixels from the other end. IMS_OK or IMS_MEMORY. */
ims_status resize_axis_plan(resize_axis *axis, int input, int size, int antialias, int mirror);

void resize_axis_free(resize_axis *axis);

#endif

#ifndef IMS_CROP_H
#define IMS_CROP_H

#include <stdio.h>

#include "imagesprint.h"

/* Returns whether `box` (left, top, right, bottom) holds a pixel and lies within the image; else says so. */
static inline int crop_is_within(const int32_t *box, int64_t width, int64_t height, char *message) {
    if (0 <= box[0] && box[0] < box[2] && box[2] <= width && 0 <= box[1] && box[1] < box[3] && box[3] <= height)
        return 1;
    snprintf(message, IMS_MESSAGE, "an image of %lld\u00d7%lld pixels cannot be cropped to (%d, %d, %d, %d)",
             (long long)width, (long long)height, box[0], box[1], box[2], box[3]);
    return 0;
}

#endif

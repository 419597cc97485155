/* Plain loops that the compiler turns into SIMD code: twice, once for AVX2, where gcc and glibc's loader can have the
 * processor choose. */
#ifndef IMS_VECTORISED_H
#define IMS_VECTORISED_H

#include <limits.h> /* any header of glibc's defines __GLIBC__ */

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define VECTORISED __attribute__((target_clones("avx2", "default")))
#else
#define VECTORISED
#endif

#define INLINED __attribute__((always_inline)) static inline

#endif

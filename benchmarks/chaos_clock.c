/* Preloaded, it sets a program's clock wrong: see chaos.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static int real(clockid_t id, struct timespec *t) {
  static int (*get)(clockid_t, struct timespec *);
  if (!get) get = dlsym(RTLD_NEXT, "clock_gettime");
  return get(id, t);
}
static time_t shift(void) {  /* CLOCK_SHIFT seconds, from the third second on the other way */
  static time_t begun;
  struct timespec t;
  real(CLOCK_MONOTONIC, &t);
  if (!begun) begun = t.tv_sec;
  const char *text = getenv("CLOCK_SHIFT");
  return (text ? atol(text) : 0) * (t.tv_sec - begun < 3 ? 1 : -1);
}
int clock_gettime(clockid_t id, struct timespec *t) {
  int result = real(id, t);
  if (id == CLOCK_REALTIME) t->tv_sec += shift();
  return result;
}
time_t time(time_t *out) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  if (out) *out = t.tv_sec;
  return t.tv_sec;
}
int gettimeofday(struct timeval *t, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  t->tv_sec = now.tv_sec, t->tv_usec = now.tv_nsec / 1000;
  return 0;
}

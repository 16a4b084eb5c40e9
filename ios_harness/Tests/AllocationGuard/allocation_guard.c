// Stands before glibc's allocator in test programs: a reader that believes a number in a file is found by what it asks for.
#include "allocation_guard.h"

#ifdef __linux__
#include <errno.h>

static _Thread_local size_t largest;

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static void note(size_t bytes) {
  if (bytes > largest) largest = bytes;
}

void *malloc(size_t bytes) {
  note(bytes);
  return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes) {
  size_t total;
  note(__builtin_mul_overflow(count, bytes, &total) ? (size_t)-1 : total);
  return __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes) {
  note(bytes);
  return __libc_realloc(old, bytes);
}

void *memalign(size_t alignment, size_t bytes) {
  note(bytes);
  return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }

int posix_memalign(void **place, size_t alignment, size_t bytes) {
  *place = memalign(alignment, bytes);
  return *place ? 0 : ENOMEM;
}

void allocation_guard_begin(void) { largest = 0; }
size_t allocation_guard_largest(void) { return largest; }
#else
void allocation_guard_begin(void) {}
size_t allocation_guard_largest(void) { return 0; }
#endif

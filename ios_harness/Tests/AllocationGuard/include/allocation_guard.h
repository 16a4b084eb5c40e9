#ifndef ALLOCATION_GUARD_H
#define ALLOCATION_GUARD_H
#include <stddef.h>

/// From here on the largest allocation of the calling thread is noted.
void allocation_guard_begin(void);
/// The largest allocation of the calling thread since then, in bytes; 0 where it cannot be known (it is on Linux alone).
size_t allocation_guard_largest(void);

#endif

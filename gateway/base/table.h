// <uthash.h> for tables of up to a million entries. By itself uthash begins with 32 buckets and doubles a table as it
// fills, all at once: with 100,000 entries that is 30 ms in which the loop stands still. Here a table has its buckets
// from the beginning, 256 KiB of which the system gives only the pages that are touched, and grows no more before it has
// about a million entries; with 200,000 a look-up passes six of them.
#pragma once

#include <stdlib.h>
#include <uthash.h>

#undef uthash_malloc
#undef uthash_bzero
#undef HASH_INITIAL_NUM_BUCKETS
#undef HASH_INITIAL_NUM_BUCKETS_LOG2
#undef HASH_BKT_CAPACITY_THRESH
#define uthash_malloc(size)           calloc(1, size)
#define uthash_bzero(at, count)       ((void)(at))
#define HASH_INITIAL_NUM_BUCKETS      16384U
#define HASH_INITIAL_NUM_BUCKETS_LOG2 14U
#define HASH_BKT_CAPACITY_THRESH      100U

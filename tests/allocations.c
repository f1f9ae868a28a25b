// Counting allocations; see allocations.h.
#include "tests/allocations.h"

#include <stdatomic.h>

static atomic_size_t count, bytes;

size_t allocations_count(void) {
    return atomic_load(&count);
}

size_t allocations_bytes(void) {
    return atomic_load(&bytes);
}

static void note(size_t size) {
    atomic_fetch_add(&count, 1);
    atomic_fetch_add(&bytes, size);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
// These replace malloc() and report each call.
int __sanitizer_install_malloc_and_free_hooks(void (*taken)(const volatile void *, size_t),
                                              void (*freed)(const volatile void *));

static void on_taken(const volatile void *memory, size_t size) {
    note(size);
}

static void on_freed(const volatile void *memory) {
}

__attribute__((constructor)) static void install(void) {
    __sanitizer_install_malloc_and_free_hooks(on_taken, on_freed);
}
#else
// The program's functions come before those of glibc, which are there under these names too.
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t items, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *malloc(size_t size);
void *calloc(size_t items, size_t size);
void *realloc(void *memory, size_t size);

void *malloc(size_t size) {
    note(size);
    return __libc_malloc(size);
}

void *calloc(size_t items, size_t size) {
    note(items * size);
    return __libc_calloc(items, size);
}

void *realloc(void *memory, size_t size) {
    note(size);
    return __libc_realloc(memory, size);
}
#endif

// FNV-1a, 64 bits: a hash that is the same in every run and on every machine. Not for tables that strangers
// fill: they could choose what collides.
#pragma once

#include <stddef.h>
#include <stdint.h>

static inline uint64_t hash_fnv1a(const void *bytes, size_t length) {
    const unsigned char *next = bytes;
    uint64_t hash = 0xcbf29ce484222325U;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ next[i]) * 0x100000001b3U;
    return hash;
}

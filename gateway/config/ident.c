// Idents; see ident.h.
#include "gateway/config/ident.h"

#include <stdlib.h>
#include <string.h>

#include "codecs/codec.h"
#include "gateway/base/hash.h"

bool device_ident_valid(const char *ident) {
    static const char allowed[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz._-";
    size_t length = strlen(ident);
    return length >= 1 && length <= CODEC_IDENT_MAX && strspn(ident, allowed) == length;
}

int64_t device_default_id(const char *ident) {
    size_t length = strlen(ident);
    if (length >= 1 && length <= 15 && strspn(ident, "0123456789") == length)
        return strtoll(ident, NULL, 10);
    return (int64_t)(hash_fnv1a(ident, length) >> 11);
}

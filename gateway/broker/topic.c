// Topics taken apart; see topic.h.
#include "gateway/broker/topic.h"

#include <stdlib.h>
#include <string.h>

#define ID_DIGITS 16 // that 53 bits may have

const char *topic_after(const char *text, const char *start) {
    size_t length = strlen(start);
    return strncmp(text, start, length) == 0 ? text + length : NULL;
}

bool topic_read_id(const char *text, int64_t *id, const char **end) {
    size_t digits = strspn(text, "0123456789");
    if (digits < 1 || digits > ID_DIGITS)
        return false;
    *id = strtoll(text, NULL, 10);
    *end = text + digits;
    return *id < INT64_C(1) << 53;
}

// Texts on the heap; see text.h.
#include "gateway/base/text.h"

#include <stdio.h>

#include "gateway/base/memory.h"

char *text_vformat(const char *format, va_list arguments) {
    char *text;
    return vasprintf(&text, format, arguments) < 0 ? must_have(NULL) : text;
}

char *text_format(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = text_vformat(format, arguments);
    va_end(arguments);
    return text;
}

char *text_of_json(const json_t *json, unsigned digits) {
    return must_have(
        json_dumps(json, JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(digits)));
}

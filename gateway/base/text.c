// Texts on the heap; see text.h.
#include "gateway/base/text.h"

#include <stdio.h>
#include <stdlib.h>

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

// Of what 15, 16 and 17 digits say, the first that reads as the same number.
static char *text_of_real(double number) {
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, number);
        if (strtod(text, NULL) == number)
            break;
    }
    return text_format("%s", text);
}

char *text_of_value(const json_t *value) {
    return json_is_real(value) ? text_of_real(json_real_value(value)) : text_of_json(value, TEXT_TIME_DIGITS);
}

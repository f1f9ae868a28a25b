// Lines for a terminal; see line.h.
#include "gateway/watch/line.h"

#include <locale.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>

#include "gateway/base/clean.h"

void line_setup(void) {
    setlocale(LC_CTYPE, "C.UTF-8");
}

// What has no known width counts as one column.
static int width_of(uint32_t character) {
    int width = character != CLEAN_INVALID ? wcwidth((wchar_t)character) : 1;
    return width >= 0 ? width : 1;
}

// Bytes of text that fit into so many columns; *taken is the columns that they take.
static size_t fitting(const char *text, int columns, int *taken) {
    size_t length = strlen(text), at = 0, size;
    for (*taken = 0; at < length; at += size) {
        int width = width_of(clean_decode(text + at, length - at, &size));
        if (*taken + width > columns)
            break;
        *taken += width;
    }
    return at;
}

int line_columns(const char *text) {
    int taken;
    fitting(text, 1 << 20, &taken);
    return taken;
}

void line_add(struct line *line, const char *format, ...) {
    char text[sizeof line->text];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0 || line->length + (size_t)length >= sizeof line->text)
        return; // whole, or characters might break
    memcpy(line->text + line->length, text, (size_t)length + 1);
    line->length += (size_t)length;
}

void line_cell(struct line *line, const char *text, int columns) {
    int width = columns < 0 ? -columns : columns, taken;
    bool cut = line_columns(text) > width;
    size_t bytes = fitting(text, cut ? width - 1 : width, &taken);
    int blanks = width - taken - cut;
    line_add(line, "%*s%.*s%s%*s", columns < 0 ? blanks : 0, "", (int)bytes, text, cut ? "…" : "",
             columns < 0 ? 0 : blanks, "");
}

void line_cut(struct line *line, int columns) {
    int taken;
    line->length = fitting(line->text, columns, &taken);
    line->text[line->length] = '\0';
}

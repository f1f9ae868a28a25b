// Text for a terminal; see text.h.
#include "gateway/watch/text.h"

#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <wchar.h>

#define ESCAPE_MAX 12 // bytes of the longest escape, with … and a NUL behind it

void watch_text_setup(void) {
    setlocale(LC_CTYPE, "C.UTF-8");
}

// The next character; what is no UTF-8 counts as one byte and is -1.
static wchar_t next_character(const char *text, size_t length, size_t *size) {
    mbstate_t state = {0};
    wchar_t character;
    size_t taken = mbrtowc(&character, text, length, &state);
    bool valid = taken > 0 && taken <= length;
    *size = valid ? taken : 1;
    return valid ? character : -1;
}

// Marks without a width that reorder, hide or break what stands beside them. The joiners (200C, 200D) are not
// among them: Persian and Indian names need them.
static bool is_treacherous(wchar_t c) {
    return c == 0xAD || c == 0x61C || c == 0x180E || c == 0x200B || c == 0x200E || c == 0x200F ||
           (c >= 0x2028 && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F) || c == 0xFEFF ||
           (c >= 0xFFF9 && c <= 0xFFFB) || c >= 0xE0000;
}

char *watch_clean(const char *text, size_t length, char *out, size_t capacity) {
    size_t used = 0, size;
    for (size_t at = 0; at < length; at += size) {
        wchar_t c = next_character(text + at, length - at, &size);
        if (used + ESCAPE_MAX > capacity) {
            strcpy(out + used, "…");
            return out;
        }
        if (c >= 0 && wcwidth(c) >= 0 && c != 0 && !is_treacherous(c)) {
            memcpy(out + used, text + at, size);
            used += size;
        } else {
            bool byte = c < 0x80;
            used += (size_t)snprintf(out + used, capacity - used, byte ? "\\x%02x" : "\\u%04x",
                                     byte ? (unsigned char)text[at] : (unsigned)c);
        }
    }
    out[used] = '\0';
    return out;
}

// Bytes of text that fit into so many columns; *taken is the columns that they take.
static size_t fitting(const char *text, int columns, int *taken) {
    size_t length = strlen(text), at = 0, size;
    for (*taken = 0; at < length; at += size) {
        wchar_t c = next_character(text + at, length - at, &size);
        int width = c >= 0 ? wcwidth(c) : 1;
        width = width >= 0 ? width : 1;
        if (*taken + width > columns)
            break;
        *taken += width;
    }
    return at;
}

int watch_columns(const char *text) {
    int taken;
    fitting(text, 1 << 20, &taken);
    return taken;
}

void watch_add(struct watch_line *line, const char *format, ...) {
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

void watch_cell(struct watch_line *line, const char *text, int columns) {
    int width = columns < 0 ? -columns : columns, taken;
    bool cut = watch_columns(text) > width;
    size_t bytes = fitting(text, cut ? width - 1 : width, &taken);
    int blanks = width - taken - cut;
    watch_add(line, "%*s%.*s%s%*s", columns < 0 ? blanks : 0, "", (int)bytes, text, cut ? "…" : "",
              columns < 0 ? 0 : blanks, "");
}

void watch_cut(struct watch_line *line, int columns) {
    int taken;
    line->length = fitting(line->text, columns, &taken);
    line->text[line->length] = '\0';
}

const char *watch_time(int64_t time, char out[WATCH_TIME_MAX]) {
    time_t seconds = (time_t)(time / 1000000);
    struct tm parts;
    if (localtime_r(&seconds, &parts) == NULL ||
        strftime(out, WATCH_TIME_MAX, "%Y-%m-%dT%H:%M:%S", &parts) == 0)
        strcpy(out, "-");
    return out;
}

const char *watch_age(int64_t microseconds, char out[WATCH_TIME_MAX]) {
    static const struct {
        long long seconds;
        const char *name;
    } units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
    long long seconds = microseconds > 0 ? microseconds / 1000000 : 0;
    size_t i = 0;
    while (i < 3 && seconds < units[i].seconds)
        i++;
    snprintf(out, WATCH_TIME_MAX, "%lld %s", seconds / units[i].seconds, units[i].name);
    return out;
}

// Text from outside made harmless; see clean.h.
#include "gateway/base/clean.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "schema/utf8.h"

#define ESCAPE_MAX 12 // bytes of the longest escape, with … and a NUL behind it

static size_t size_after(unsigned char lead) {
    return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

uint32_t clean_decode(const char *text, size_t length, size_t *size) {
    unsigned char lead = (unsigned char)*text;
    size_t count = size_after(lead);
    *size = 1;
    if (count > length || !utf8_valid(text, count))
        return CLEAN_INVALID;
    uint32_t character = count == 1 ? lead : lead & (0x7FU >> count);
    for (size_t i = 1; i < count; i++)
        character = character << 6 | ((unsigned char)text[i] & 0x3FU);
    *size = count;
    return character;
}

// Control characters, code points that will never be characters, and unassigned ones: nobody knows what a
// terminal makes of them.
static bool is_unprintable(uint32_t c) {
    return c < 0x20 || (c >= 0x7F && c <= 0x9F) || (c >= 0xFDD0 && c <= 0xFDEF) || (c & 0xFFFE) == 0xFFFE ||
           (c >= 0xFFF0 && c <= 0xFFF8) || (c >= 0x40000 && c <= 0xDFFFF);
}

// Marks without a width that reorder, hide or break what stands beside them. The joiners (200C, 200D) are not
// among them: Persian and Indian names need them.
static bool is_treacherous(uint32_t c) {
    return c == 0xAD || c == 0x61C || c == 0x180E || c == 0x200B || c == 0x200E || c == 0x200F ||
           (c >= 0x2028 && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F) || c == 0xFEFF ||
           (c >= 0xFFF9 && c <= 0xFFFB) || c >= 0xE0000;
}

static int write_escape(char *out, uint32_t character, unsigned char first) {
    bool byte = character == CLEAN_INVALID || character < 0x80;
    return byte ? sprintf(out, "\\x%02x", first) : sprintf(out, "\\u%04x", character);
}

static bool is_clean(uint32_t character) {
    return character != CLEAN_INVALID && !is_unprintable(character) && !is_treacherous(character);
}

// Outside of its texts JSON has none of them.
void clean_print_json(const char *json, size_t length, FILE *file) {
    for (size_t at = 0, size; at < length; at += size) {
        uint32_t c = clean_decode(json + at, length - at, &size);
        if (is_clean(c))
            fwrite(json + at, 1, size, file);
        else if (c == CLEAN_INVALID)
            fputs("\\ufffd", file);
        else if (c < 0x10000)
            fprintf(file, "\\u%04x", c);
        else
            fprintf(file, "\\u%04x\\u%04x", 0xD800 + ((c - 0x10000) >> 10), 0xDC00 + (c & 0x3FF));
    }
}

char *clean_text(const char *text, size_t length, char *out, size_t capacity) {
    size_t used = 0, size;
    for (size_t at = 0; at < length; at += size) {
        uint32_t c = clean_decode(text + at, length - at, &size);
        if (used + ESCAPE_MAX > capacity) {
            strcpy(out + used, "…");
            return out;
        }
        if (!is_clean(c)) {
            used += (size_t)write_escape(out + used, c, (unsigned char)text[at]);
        } else {
            memcpy(out + used, text + at, size);
            used += size;
        }
    }
    out[used] = '\0';
    return out;
}

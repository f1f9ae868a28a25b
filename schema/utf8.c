// UTF-8 check; see utf8.h.
#include "schema/utf8.h"

#include <stdint.h>
#include <string.h>

// Bytes that follow the lead byte, and the least code point of that length; 0 for no lead byte.
static unsigned sequence_tail(unsigned char lead, uint32_t *code, uint32_t *least) {
    if ((lead & 0xE0) == 0xC0) {
        *code = lead & 0x1FU;
        *least = 0x80;
        return 1;
    }
    if ((lead & 0xF0) == 0xE0) {
        *code = lead & 0x0FU;
        *least = 0x800;
        return 2;
    }
    if ((lead & 0xF8) == 0xF0) {
        *code = lead & 0x07U;
        *least = 0x10000;
        return 3;
    }
    return 0;
}

bool utf8_valid(const char *text, size_t length) {
    for (size_t at = 0; at < length;) {
        unsigned char lead = (unsigned char)text[at++];
        if (lead == 0)
            return false;
        if (lead < 0x80)
            continue;
        uint32_t code, least;
        unsigned tail = sequence_tail(lead, &code, &least);
        if (tail == 0 || tail > length - at)
            return false;
        for (; tail > 0; tail--) {
            unsigned char next = (unsigned char)text[at++];
            if ((next & 0xC0) != 0x80)
                return false;
            code = code << 6 | (next & 0x3FU);
        }
        if (code < least || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
            return false;
    }
    return true;
}

void utf8_mend(char *text) {
    while (*text != '\0') {
        size_t length = 1, most = strnlen(text, 4);
        while (length <= most && !utf8_valid(text, length))
            length++;
        if (length > most) {
            *text = '?';
            length = 1;
        }
        text += length;
    }
}

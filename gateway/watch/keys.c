// The keys that `trackbus watch` knows; see keys.h.
#include "gateway/watch/keys.h"

#include <string.h>

// Sequences as xterm and its kin, and the console of Linux, send them; then letters as in less.
static const struct {
    const char *bytes;
    enum key key;
} table[] = {
    {"\033[A", KEY_UP},     {"\033OA", KEY_UP},       {"\033[B", KEY_DOWN},
    {"\033OB", KEY_DOWN},   {"\033[5~", KEY_PAGE_UP}, {"\033[6~", KEY_PAGE_DOWN},
    {"\033[H", KEY_FIRST},  {"\033OH", KEY_FIRST},    {"\033[1~", KEY_FIRST},
    {"\033[7~", KEY_FIRST}, {"\033[F", KEY_LAST},     {"\033OF", KEY_LAST},
    {"\033[4~", KEY_LAST},  {"\033[8~", KEY_LAST},    {"k", KEY_UP},
    {"j", KEY_DOWN},        {"b", KEY_PAGE_UP},       {" ", KEY_PAGE_DOWN},
    {"g", KEY_FIRST},       {"G", KEY_LAST},          {"s", KEY_ORDER},
    {"r", KEY_REVERSE},     {"?", KEY_HELP},          {"h", KEY_HELP},
    {"q", KEY_QUIT},        {"Q", KEY_QUIT},
};

// Of a sequence that we do not know: it must not be taken for letters.
static size_t length_of_unknown(const char *bytes, size_t count) {
    size_t length = 1;
    if (*bytes != '\033' || count < 2 || (bytes[1] != '[' && bytes[1] != 'O'))
        return length;
    for (length = 2; length < count && (bytes[length] < 0x40 || bytes[length] > 0x7E); length++)
        ;
    return length < count ? length + 1 : count;
}

enum key key_next(const char **bytes, size_t *count) {
    enum key key = KEY_OTHER;
    if (*count == 0)
        return KEY_NONE;
    size_t length = length_of_unknown(*bytes, *count);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        size_t known = strlen(table[i].bytes);
        if (known > *count || memcmp(*bytes, table[i].bytes, known) != 0)
            continue;
        key = table[i].key;
        length = known;
        break;
    }
    *bytes += length;
    *count -= length;
    return key;
}

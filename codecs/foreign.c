// Protocols that are no tracker's; see foreign.h.
#include "codecs/foreign.h"

#include <string.h>

static const struct beginning {
    const char *protocol;
    const char *bytes;
} beginnings[] = {
    {"HTTP", "GET "},        {"HTTP", "HEAD "},       {"HTTP", "POST "},        {"HTTP", "PUT "},
    {"HTTP", "OPTIONS "},    {"HTTP", "CONNECT "},    {"HTTP", "PRI * HTTP/2"}, {"SSH", "SSH-"},
    {"TLS", "\x16\x03\x01"}, // the record of a ClientHello says 1.0 for the sake of old servers
    {"TLS", "\x16\x03\x02"}, {"TLS", "\x16\x03\x03"},
};

const char *foreign_protocol(const uint8_t *bytes, size_t length) {
    for (size_t i = 0; i < sizeof beginnings / sizeof beginnings[0]; i++) {
        size_t size = strlen(beginnings[i].bytes);
        if (length >= size && memcmp(bytes, beginnings[i].bytes, size) == 0)
            return beginnings[i].protocol;
    }
    return NULL;
}

// The PROXY protocol; see proxy.h.
#include "gateway/channels/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "gateway/base/address.h"

#define TEXT_MAX  107 // bytes of a header of version 1, with its CR LF
#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define FIXED     16 // bytes of a header of version 2 before the addresses
#define LOCAL     0x20
#define PROXIED   0x21

static struct proxy_header verdict_is(enum proxy_verdict verdict, const char *reason) {
    return (struct proxy_header){.verdict = verdict, .reason = reason};
}

// --- version 1: "PROXY TCP4 192.0.2.1 198.51.100.1 4000 7700\r\n" ---

static struct proxy_header read_words(const char *line, size_t length) {
    struct proxy_header header = {.verdict = PROXY_FROM, .length = length};
    char family[8] = "", remote[40] = "", local[40], text[ADDRESS_TEXT_MAX];
    unsigned port = 65536, other;
    int end = 0;
    if (strncmp(line, "PROXY UNKNOWN", 13) == 0 && (line[13] == ' ' || line[13] == '\r'))
        return (struct proxy_header){.verdict = PROXY_OWN, .length = length};
    sscanf(line, "PROXY %7s %39s %39s %5u %5u%n", family, remote, local, &port, &other, &end);
    bool six = strcmp(family, "TCP6") == 0;
    snprintf(text, sizeof text, six ? "[%s]:%u" : "%s:%u", remote, port);
    if ((size_t)end + 2 != length || (!six && strcmp(family, "TCP4") != 0) ||
        !address_parse(text, &header.remote))
        return verdict_is(PROXY_BAD, "a broken PROXY header of version 1");
    return header;
}

static struct proxy_header read_text(const uint8_t *bytes, size_t length) {
    char line[TEXT_MAX + 1];
    size_t most = length < TEXT_MAX ? length : TEXT_MAX;
    const uint8_t *end = memchr(bytes, '\n', most);
    if (end == NULL && most < TEXT_MAX)
        return verdict_is(PROXY_MORE, NULL);
    if (end == NULL || end[-1] != '\r')
        return verdict_is(PROXY_BAD, "a PROXY header of version 1 without an end");
    size_t size = (size_t)(end - bytes) + 1;
    memcpy(line, bytes, size);
    line[size] = '\0';
    return read_words(line, size);
}

// --- version 2 ---

static struct proxy_header read_addresses(const uint8_t *bytes, size_t size) {
    struct proxy_header header = {.verdict = PROXY_FROM, .length = size};
    struct sockaddr_in four = {.sin_family = AF_INET};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    unsigned family = bytes[13] >> 4;
    size_t room = size - FIXED;
    if (bytes[12] == LOCAL || family == 0) {
        header.verdict = PROXY_OWN;
    } else if (family == 1 && room >= 12) {
        memcpy(&four.sin_addr, bytes + FIXED, 4);
        memcpy(&four.sin_port, bytes + FIXED + 8, 2);
        memcpy(&header.remote, &four, sizeof four);
    } else if (family == 2 && room >= 36) {
        memcpy(&six.sin6_addr, bytes + FIXED, 16);
        memcpy(&six.sin6_port, bytes + FIXED + 32, 2);
        memcpy(&header.remote, &six, sizeof six);
    } else {
        return verdict_is(PROXY_BAD, "a PROXY header of version 2 without an IP address");
    }
    return header;
}

static struct proxy_header read_binary(const uint8_t *bytes, size_t length) {
    if (length < FIXED)
        return verdict_is(PROXY_MORE, NULL);
    size_t size = FIXED + ((size_t)bytes[14] << 8 | bytes[15]);
    if ((bytes[12] != LOCAL && bytes[12] != PROXIED) || size > PROXY_HEADER_MAX)
        return verdict_is(PROXY_BAD, "a broken PROXY header of version 2");
    return length < size ? verdict_is(PROXY_MORE, NULL) : read_addresses(bytes, size);
}

// --- both ---

static bool begins_with(const uint8_t *bytes, size_t length, const char *mark, size_t size) {
    return memcmp(bytes, mark, length < size ? length : size) == 0;
}

struct proxy_header proxy_read(const uint8_t *bytes, size_t length, bool datagram) {
    struct proxy_header header = verdict_is(PROXY_BAD, "no PROXY header");
    if (begins_with(bytes, length, SIGNATURE, sizeof SIGNATURE - 1))
        header = read_binary(bytes, length);
    else if (!datagram && begins_with(bytes, length, "PROXY ", 6))
        header = read_text(bytes, length);
    if (datagram && header.verdict == PROXY_MORE)
        header = verdict_is(PROXY_BAD, "a PROXY header that was cut off");
    return header;
}

bool proxy_is_trusted(const struct config_channel *channel, const struct sockaddr *address) {
    struct address_key key = address_key_of(address);
    for (size_t i = 0; i < channel->proxy_from_count; i++)
        if (address_range_has(&channel->proxy_from[i], key.ip))
            return true;
    return false;
}

// IP addresses; see address.h.
#include "gateway/base/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool parse_port(const char *text, in_port_t *port) {
    unsigned value = 0;
    size_t length = strlen(text);
    if (length == 0 || length > 5 || strspn(text, "0123456789") != length)
        return false;
    for (; *text != '\0'; text++)
        value = value * 10 + (unsigned)(*text - '0');
    *port = htons((uint16_t)value);
    return value <= 65535;
}

bool address_parse(const char *text, struct sockaddr_storage *address) {
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    struct sockaddr_in four = {.sin_family = AF_INET};
    char host[INET6_ADDRSTRLEN];
    bool bracketed = text[0] == '[';
    const char *end = bracketed ? strstr(text, "]:") : strrchr(text, ':');
    const char *begin = bracketed ? text + 1 : text;
    if (end == NULL || (size_t)(end - begin) >= sizeof host)
        return false;
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = '\0';
    if (bracketed && parse_port(end + 2, &six.sin6_port) && inet_pton(AF_INET6, host, &six.sin6_addr) == 1) {
        memcpy(address, &six, sizeof six);
        return true;
    }
    if (!bracketed && parse_port(end + 1, &four.sin_port) && inet_pton(AF_INET, host, &four.sin_addr) == 1) {
        memcpy(address, &four, sizeof four);
        return true;
    }
    return false;
}

static const unsigned char mapped_prefix[12] = {[10] = 0xFF, [11] = 0xFF};

struct address_key address_key_of(const struct sockaddr *address) {
    struct address_key key = {0};
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)address;
        memcpy(key.ip, mapped_prefix, sizeof mapped_prefix);
        memcpy(key.ip + 12, &four->sin_addr, 4);
        memcpy(key.port, &four->sin_port, 2);
    } else {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)address;
        memcpy(key.ip, &six->sin6_addr, 16);
        memcpy(key.port, &six->sin6_port, 2);
    }
    return key;
}

bool address_is_loopback(const struct sockaddr_storage *address) {
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;
    const struct sockaddr_in *four = (const struct sockaddr_in *)address;
    if (address->ss_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
    return ntohl(four->sin_addr.s_addr) >> 24 == 127;
}

char *address_write(const struct sockaddr *address, char *text) {
    struct address_key key = address_key_of(address);
    char host[INET6_ADDRSTRLEN];
    unsigned port = (unsigned)key.port[0] << 8 | key.port[1];
    bool four = memcmp(key.ip, mapped_prefix, sizeof mapped_prefix) == 0;
    inet_ntop(four ? AF_INET : AF_INET6, four ? key.ip + 12 : key.ip, host, sizeof host);
    snprintf(text, ADDRESS_TEXT_MAX, four ? "%s:%u" : "[%s]:%u", host, port);
    return text;
}

static bool parse_bits(const char *text, unsigned most, unsigned *bits) {
    size_t length = strlen(text);
    unsigned value =
        length > 0 && length <= 3 && strspn(text, "0123456789") == length ? (unsigned)atoi(text) : most + 1;
    *bits = value;
    return value <= most;
}

bool address_range_parse(const char *text, struct address_range *range) {
    struct address_range parsed = {.bits = 128};
    char host[INET6_ADDRSTRLEN];
    const char *slash = strchrnul(text, '/');
    unsigned bits;
    if ((size_t)(slash - text) >= sizeof host)
        return false;
    memcpy(host, text, (size_t)(slash - text));
    host[slash - text] = '\0';
    bool four = inet_pton(AF_INET, host, parsed.ip + sizeof mapped_prefix) == 1;
    if (four)
        memcpy(parsed.ip, mapped_prefix, sizeof mapped_prefix);
    else if (inet_pton(AF_INET6, host, parsed.ip) != 1)
        return false;
    if (*slash != '\0') {
        if (!parse_bits(slash + 1, four ? 32 : 128, &bits))
            return false;
        parsed.bits = bits + (four ? 96 : 0);
    }
    *range = parsed;
    return true;
}

bool address_range_has(const struct address_range *range, const unsigned char ip[16]) {
    size_t whole = range->bits / 8;
    unsigned rest = range->bits % 8;
    if (memcmp(range->ip, ip, whole) != 0)
        return false;
    return rest == 0 || (range->ip[whole] ^ ip[whole]) >> (8 - rest) == 0;
}

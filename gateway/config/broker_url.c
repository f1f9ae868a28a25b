// Reading where a broker listens; see broker_url.h.
#include "gateway/config/broker_url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"

#define HOST_MAX    256 // bytes
#define PLAIN_PORT  1883
#define TLS_PORT    8883
#define WHITE_SPACE " \t,"

// Reads HOST or HOST:PORT; a port that is left out stays as it is. Returns where it ends, NULL: nowhere.
static const char *read_host(const char *text, char host[HOST_MAX], int *port) {
    char digits[6];
    int end = 0;
    bool read = sscanf(text, "[%255[0-9A-Fa-f:.]]%n", host, &end) == 1;
    if ((read && end == 0) || (!read && sscanf(text, "%255[0-9A-Za-z._-]%n", host, &end) != 1))
        return NULL;
    text += end;
    if (*text == ':' && sscanf(text, ":%5[0-9]%n", digits, &end) == 1) {
        *port = atoi(digits);
        text += end;
    }
    return *port >= 1 && *port <= 65535 ? text : NULL;
}

static bool finish(const char *rest, const char *host, bool tls, int port, struct broker_address *address) {
    if (rest != NULL && *rest == '/')
        rest++;
    if (rest == NULL || *rest != '\0')
        return false;
    *address = (struct broker_address){.tls = tls, .host = must_have(strdup(host)), .port = port};
    return true;
}

bool broker_url_parse(const char *url, struct broker_address *address) {
    char host[HOST_MAX];
    bool tls = strncasecmp(url, "mqtts://", 8) == 0;
    int port = tls ? TLS_PORT : PLAIN_PORT;
    if (!tls && strncasecmp(url, "mqtt://", 7) != 0)
        return false;
    const char *rest = read_host(url + (tls ? 8 : 7), host, &port);
    return finish(rest, host, tls, port, address);
}

bool broker_url_parse_reference(const char *text, const struct broker_address *from,
                                struct broker_address *address) {
    char host[HOST_MAX], first[HOST_MAX + 16];
    int port = from->port;
    text += strspn(text, WHITE_SPACE);
    snprintf(first, sizeof first, "%.*s", (int)strcspn(text, WHITE_SPACE), text);
    if (broker_url_parse(first, address))
        return true;
    const char *rest = read_host(first, host, &port);
    return finish(rest, host, from->tls, port, address);
}

char *broker_url_masked(const char *url) {
    const char *scheme = strstr(url, "://"), *end = strrchr(url, '@');
    const char *user = scheme != NULL ? scheme + 3 : url;
    const char *colon = end != NULL && user < end ? memchr(user, ':', (size_t)(end - user)) : NULL;
    return colon != NULL ? text_format("%.*s***%s", (int)(colon + 1 - url), url, end)
                         : must_have(strdup(url));
}

struct broker_address broker_address_copy(const struct broker_address *address) {
    return (struct broker_address){
        .tls = address->tls, .host = must_have(strdup(address->host)), .port = address->port};
}

bool broker_address_equals(const struct broker_address *one, const struct broker_address *other) {
    return one->tls == other->tls && one->port == other->port && strcasecmp(one->host, other->host) == 0;
}

// Where a broker listens: read from a URL of the configuration, or from what a broker says of another one.
#pragma once

#include <stdbool.h>

struct broker_address {
    bool tls;
    char *host; // without brackets; the address owns it
    int port;   // 1 to 65535
};

// Reads mqtt://HOST:PORT or mqtts://HOST:PORT; the port may be left out. False when it is neither.
bool broker_url_parse(const char *url, struct broker_address *address);

// Reads the first one of a Server Reference (MQTT 5): HOST, HOST:PORT or a URL. What it leaves out is as in
// from, the broker that said it. False when there is none.
bool broker_url_parse_reference(const char *text, const struct broker_address *from,
                                struct broker_address *address);

// A URL of the configuration as people may see it: without the password that somebody wrote into it. For the caller to
// free.
char *broker_url_masked(const char *url);

struct broker_address broker_address_copy(const struct broker_address *address);
bool broker_address_equals(const struct broker_address *one, const struct broker_address *other);

// The PROXY protocol: the header that a load balancer puts in front of a connection, or of a datagram, to say where
// it came from. Versions 1 (text) and 2 (binary), as haproxy.org/download/2.9/doc/proxy-protocol.txt describes them.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "gateway/config/config.h"

#define PROXY_HEADER_MAX 1024 // bytes; what a balancer may add behind the addresses is skipped

enum proxy_verdict {
    PROXY_MORE, // the beginning of a header
    PROXY_BAD,  // no header, or a broken one; reason says which
    PROXY_OWN,  // a header of the balancer's own, for instance when it looks whether we are there
    PROXY_FROM, // a header that says where it came from: remote
};

struct proxy_header {
    enum proxy_verdict verdict;
    size_t length; // of OWN and FROM: bytes of the header
    struct sockaddr_storage remote;
    const char *reason; // a constant
};

// Reads the header at the beginning of bytes. A datagram has all of it, in version 2.
struct proxy_header proxy_read(const uint8_t *bytes, size_t length, bool datagram);

// Whether the channel believes a header from this address.
bool proxy_is_trusted(const struct config_channel *channel, const struct sockaddr *address);

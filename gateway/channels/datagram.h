// Datagrams with both of their ends: where one came from, and at which of our addresses and on which interface
// it arrived. What is sent back must leave from there, or a network on the way drops it.
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct datagram_ends {
    struct sockaddr_storage remote;
    bool has_local; // the system has said where it arrived
    union {
        struct in_pktinfo four; // of a socket for IPv4
        struct in6_pktinfo six; // of one for IPv6, also when it takes both
    } local;
};

// A socket that is bound to the address; shared: other processes may bind to it too. The descriptor, which
// the caller closes, or minus an errno.
int datagram_open(const struct sockaddr_storage *address, bool shared);

// ends and bytes are borrowed.
typedef void datagram_fn(void *context, const struct datagram_ends *ends, const uint8_t *bytes,
                         size_t length);

// Takes the next one that has come, without waiting. 1; 0 when none is there; or minus an errno.
int datagram_receive(int descriptor, datagram_fn *take, void *context);

// Sends to ends->remote, from where its datagram arrived if that is still ours. 0 or minus an errno.
int datagram_send(int descriptor, const struct datagram_ends *ends, const uint8_t *bytes, size_t length);

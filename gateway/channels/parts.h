// The parts of the gateway that its channels work with, in one place, because each channel needs all of them.
// Whoever puts the gateway together fills it in; everything in it stays the caller's.
#pragma once

#include <stdint.h>
#include <uv.h>

#include "gateway/base/address.h"
#include "gateway/base/limiter.h"
#include "gateway/broker/bus.h"
#include "gateway/broker/outbox.h"
#include "gateway/channels/gate.h"
#include "gateway/channels/observer.h"
#include "gateway/config/config.h"
#include "gateway/config/registry.h"

struct captures;
struct held;
struct session_table;

// Where a channel listens, as "ip:port"; an empty text where it does not.
struct channel_place {
    char tcp[ADDRESS_TEXT_MAX], udp[ADDRESS_TEXT_MAX];
};

struct channel_parts {
    uv_loop_t *loop;
    const struct config *config;
    struct registry *registry;
    struct outbox *outbox;
    const struct bus *bus;
    struct gate *gate;
    struct captures *captures; // or NULL: nobody can ask for any
    struct held *held;         // or NULL: no report waits for its position
    struct session_table *sessions;
    struct channel_place *places; // one for each of config->channels
    const struct channel_observer *observer;
    struct limiter log_limiter;      // of lines about the same thing from one address
    struct limiter datagram_limiter; // of datagrams from one address
    struct limiter records_limiter;  // of what devices outside the registry say over UDP, from all addresses
    struct limiter stranger_limiter; // of new devices outside the registry, from one address in a minute
    struct limiter moved_limiter;    // of devices that another gateway has taken over from us
    uint64_t full_told;              // by uv_now(): that no more of these get an identity; 0: never
    uint64_t too_much_told;          // the same: that they say too much over UDP
    unsigned too_much_untold;        // how often that was not told since
    uint64_t last_serial;            // of a peer
    uint64_t last_place;             // serial number of a device's place at a peer
    size_t place_count;              // of devices, at all peers
    size_t reply_count;              // that wait until messages are safe, of all peers
};

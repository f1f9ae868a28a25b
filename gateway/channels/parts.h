// The parts of the gateway that its channels work with, in one place, because each channel needs all of them.
// Whoever puts the gateway together fills it in; everything in it stays the caller's.
#pragma once

#include <stdint.h>
#include <uv.h>

#include "gateway/base/limiter.h"
#include "gateway/broker/bus.h"
#include "gateway/broker/outbox.h"
#include "gateway/channels/gate.h"
#include "gateway/channels/observer.h"
#include "gateway/config/config.h"
#include "gateway/config/registry.h"

struct channel;
struct session_table;

struct channel_parts {
    uv_loop_t *loop;
    const struct config *config;
    const struct registry *registry;
    struct outbox *outbox;
    const struct bus *bus;
    struct gate *gate;
    struct session_table *sessions;
    const struct channel *channels; // config->channel_count of them
    const struct channel_observer *observer;
    struct limiter log_limiter;      // of lines about the same thing from one address
    struct limiter datagram_limiter; // of datagrams from one address
    uint64_t last_serial;            // of a peer
};

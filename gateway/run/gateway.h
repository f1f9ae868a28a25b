// The running gateway: its parts, and what they share. Everything runs on one thread, the loop's.
#pragma once

#include <stdint.h>
#include <uv.h>

#include "gateway/base/limiter.h"
#include "gateway/broker/mqtt_link.h"
#include "gateway/broker/outbox.h"
#include "gateway/broker/store.h"
#include "gateway/channels/channel.h"
#include "gateway/channels/session.h"
#include "gateway/commands/queue.h"
#include "gateway/commands/sync.h"
#include "gateway/config/config.h"
#include "gateway/config/registry.h"
#include "gateway/state/devices.h"
#include "gateway/state/instances.h"
#include "gateway/state/state.h"

struct gateway {
    uv_loop_t loop;
    const struct config *config;
    struct registry *registry;
    struct mqtt_link *link;
    struct outbox *outbox;
    struct session_table sessions;
    struct device_state_table devices;
    struct state state;
    struct instance_table instances;
    struct store *store;
    struct command_queue commands;
    struct command_sync sync;
    struct channel *channels;        // config->channel_count of them
    size_t listening;                // sockets that trackers can reach
    uv_prepare_t turn;               // begins a turn of the loop
    size_t turn_left;                // bytes that may still be read from connections in this turn
    uv_idle_t resumer;               // while connections that were held are let go
    bool holding;                    // connections are not read: the outbox is busy or full
    bool paused;                     // nothing is read from devices, because the outbox is full
    uint64_t turned_away;            // datagrams, while paused
    int connections;                 // over TCP, in all channels
    int connections_max;             // limits.connections, or what the system allows
    struct limiter log_limiter;      // of lines about the same thing from one address
    struct limiter datagram_limiter; // of datagrams from one address
    struct address_count *addresses; // connections by address
    uint64_t last_serial;            // of a peer
    int64_t started;                 // microseconds since 1970
};

// Microseconds since 1970.
int64_t gateway_clock(void);

// Whether connections may be read now. When not, they are held, and gateway_resume_soon() has them let go in
// time.
bool gateway_reads(const struct gateway *gateway);
void gateway_resume_soon(struct gateway *gateway);

// Publishes JSON (NULL: an empty payload) to {prefix}/{topic…}, for logs and state. Returns its number in the
// outbox, 0 when that is full.
__attribute__((format(printf, 4, 5))) uint64_t gateway_publish(struct gateway *gateway, const json_t *payload,
                                                               enum mqtt_retain retain, const char *topic,
                                                               ...);
// The same for text, which is copied, to a topic that stands as it is.
uint64_t gateway_publish_text(struct gateway *gateway, const char *topic, const char *text, size_t length,
                              enum mqtt_retain retain);

// Runs until SIGINT or SIGTERM. Returns the exit code.
int gateway_run(struct config *config);

// Trackers over TCP: a listening socket and a connection for each tracker.
#pragma once

#include "gateway/channels/peer.h"

struct tcp_connection;

struct tcp_listener {
    struct channel_parts *parts;
    const struct config_channel *channel;
    struct stream_counters *counters;
    uv_tcp_t socket;
    uv_timer_t postponed; // accepts one that this turn of the loop had no place for
    struct tcp_connection *connections;
    uv_timer_t due_timer;       // for those that are due
    struct tcp_connection *due; // and were when a turn of the loop had no more time, the first one first
    uv_timer_t timeouts_timer;  // gives connections the timeouts of a new configuration
    struct tcp_connection *timeouts_next; // the first of those that do not have them
    struct tcp_connection
        *held; // with something to read, while nothing is read (back-pressure), or to try again
    struct tcp_connection
        *strangers_held; // the same outside the registry, or while much waits in the background
    uint64_t held_count; // times that one was held
    size_t count;        // of connections
    uint64_t refused;    // connections beyond limits.connections or connections_per_address
};

// Listens on channel->tcp. 0 or an error of libuv; tcp_close() is due in either case.
int tcp_listen(struct tcp_listener *listener, struct channel_parts *parts,
               const struct config_channel *channel, struct stream_counters *counters);

// Takes what has come and closes all (code 7). The memory stays until the loop has ended.
void tcp_close(struct tcp_listener *listener);

// As channel_set_timeouts().
void tcp_set_timeouts(struct tcp_listener *listener);

// Goes on with up to count connections that were held, longest-held first; returns how many.
size_t tcp_resume(struct tcp_listener *listener, size_t count);

// A channel: one protocol on a TCP and a UDP port.
#pragma once

#include "gateway/channels/tcp.h"
#include "gateway/channels/udp.h"

struct channel {
    struct channel_parts *parts;
    const struct config_channel *config;
    struct stream_counters counters;
    struct tcp_listener tcp;
    struct udp_socket udp;
    bool tcp_open, tcp_listens;
    bool udp_open, udp_listens;
};

// Opens the channel's sockets; a socket that cannot be opened is logged and left out. Returns how many
// are open. channel is all zero before.
size_t channel_open(struct channel *channel, struct channel_parts *parts,
                    const struct config_channel *config);

// Closes everything, connections with code 7. The memory stays until the loop has ended.
void channel_close(struct channel *channel);

// limits.idle_timeout, identify_timeout or tcp_keepalive have changed: they hold for open connections too.
void channel_set_timeouts(struct channel *channel);

// Goes on reading from up to count connections that were held, longest-held first; returns how many.
size_t channel_resume(struct channel *channel, size_t count);

// Connections over TCP.
size_t channel_connections(const struct channel *channel);

// "ip:port" where devices connect, into text of ADDRESS_TEXT_MAX bytes; NULL where they cannot.
const char *channel_tcp_name(const struct channel *channel, char *text);
const char *channel_udp_name(const struct channel *channel, char *text);

// Logs what came through.
void channel_log_counters(const struct channel *channel);

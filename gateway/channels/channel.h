// A channel: one protocol on a TCP and a UDP port.
#pragma once

#include <stdbool.h>
#include <uv.h>

#include "gateway/channels/peer.h"
#include "gateway/config/config.h"

struct address_count;
struct tcp_connection;
struct udp_peer;

struct channel {
    struct gateway *gateway;
    const struct config_channel *config;
    struct stream_counters counters;
    uv_tcp_t tcp;
    bool tcp_open, tcp_listens;
    struct tcp_connection *connections;
    struct tcp_connection *held; // those with something to read, while nothing is read
    size_t connection_count;
    uv_udp_t udp;
    uv_timer_t udp_sweep;
    bool udp_open, udp_listens;
    bool state_due;               // what stands retained of it has changed
    uint64_t refused_connections; // beyond limits.connections or limits.connections_per_address
    uint64_t refused_datagrams;   // beyond limits.datagrams_per_second
    struct udp_peer *udp_peers;   // by address, the one heard last at the end
};

// Opens the channel's sockets. One that cannot be opened is logged and left out.
void channel_open(struct channel *channel, struct gateway *gateway, const struct config_channel *config);

// Closes everything, connections with code 7. The memory stays until the loop has ended.
void channel_close(struct channel *channel);

// Goes on reading from up to count connections that were held, the longest first; returns of how many.
size_t channel_resume(struct channel *channel, size_t count);

// Notes that its state has to be published again.
void channel_changed(struct channel *channel);

// Publishes it, retained: of this instance, and of all together where that is ours to say.
void channel_publish_state(struct channel *channel);

// Says in the log what came through.
void channel_log_counters(const struct channel *channel);

// For peers over UDP: notes that the datagram at hand is to be acknowledged, if the channel is told to.
void channel_acknowledge_datagram(struct peer *peer, const struct message *message);

// Lets the other workers listen on the same port, if there are any; before the socket is bound.
int channel_share_port(const uv_handle_t *handle, const struct config *config);

// The number of the port that a socket has, into "ip:port".
int channel_socket_name(const uv_handle_t *handle, char *text);

// tcp.c and udp.c; 0 or an error of libuv.
int tcp_listen(struct channel *channel);
void tcp_close_all(struct channel *channel);
size_t tcp_resume(struct channel *channel, size_t count);
int udp_bind(struct channel *channel);
void udp_close_all(struct channel *channel);

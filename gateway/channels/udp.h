// Trackers over UDP: a socket, the addresses that devices were heard from, and what to send back to them.
#pragma once

#include "gateway/channels/peer.h"

struct udp_peer;

struct udp_socket {
    size_t peers_max; // addresses that are remembered; beyond that the one heard longest ago is forgotten
    struct channel_parts *parts;
    const struct config_channel *channel;
    struct stream_counters *counters;
    int descriptor;
    uv_poll_t socket;
    uv_timer_t sweep;
    struct udp_peer *peers; // by address, the one heard last at the end
    uint64_t refused;       // datagrams beyond limits.datagrams_per_second
};

// Binds to channel->udp. 0 or an error of libuv; udp_close() is due when it was 0.
int udp_bind(struct udp_socket *udp, struct channel_parts *parts, const struct config_channel *channel,
             struct stream_counters *counters);

// Forgets all addresses (code 7) and closes the socket.
void udp_close(struct udp_socket *udp);

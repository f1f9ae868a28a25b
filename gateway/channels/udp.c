// Trackers over UDP; see udp.h.
#include "gateway/channels/udp.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/channels/conversation.h"
#include "gateway/channels/event.h"
#include "gateway/channels/socket.h"

#define PEERS_MAX      100000 // addresses remembered; beyond that the one heard longest ago is forgotten
#define SWEEP_INTERVAL 5000   // milliseconds

struct udp_peer {
    struct peer peer; // first, so that the one is the other
    struct udp_socket *socket;
    struct address_key key;
    struct sockaddr_storage address;
    bool remembered; // stands in the socket's table
    UT_hash_handle hh;
};

struct send {
    uv_udp_send_t request;
    uint8_t bytes[];
};

static void on_sent(uv_udp_send_t *request, int status) {
    free(request);
}

static void send_datagram(struct peer *peer, const uint8_t *bytes, size_t length) {
    struct udp_peer *udp = (struct udp_peer *)peer;
    uv_buf_t buffer = uv_buf_init((char *)bytes, (unsigned)length);
    const struct sockaddr *address = (const struct sockaddr *)&udp->address;
    peer->sent += length;
    if (uv_udp_try_send(&udp->socket->socket, &buffer, 1, address) >= 0)
        return;
    struct send *send = must_have(malloc(sizeof *send + length));
    memcpy(send->bytes, bytes, length);
    buffer = uv_buf_init((char *)send->bytes, (unsigned)length);
    if (uv_udp_send(&send->request, &udp->socket->socket, &buffer, 1, address, on_sent) != 0)
        free(send);
}

static void forget(struct udp_peer *udp, enum close_code code) {
    if (udp->remembered) {
        event_closed(&udp->peer, code);
        HASH_DEL(udp->socket->peers, udp);
    }
    conversation_end(&udp->peer);
    free(udp);
}

// A device that was heard from another address: nothing is sent to this one any more.
static void close_peer(struct peer *peer, enum close_code code) {
    log_debug("channel %s, %s: udp: %s", peer->channel->name, peer->address, close_code_text(code));
    forget((struct udp_peer *)peer, code);
}

static const struct peer_transport udp_transport = {
    .is_udp = true, .send = send_datagram, .close = close_peer};

// --- receiving ---

static struct udp_peer *find_peer(struct udp_socket *socket, const struct sockaddr *address) {
    struct address_key key = address_key_of(address);
    struct udp_peer *udp;
    HASH_FIND(hh, socket->peers, &key, sizeof key, udp);
    if (udp != NULL)
        return udp;
    udp = must_have(calloc(1, sizeof *udp));
    udp->socket = socket;
    udp->key = key;
    memcpy(&udp->address, address,
           address->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
    conversation_begin(&udp->peer, socket->parts, socket->channel, socket->counters, &udp_transport, address);
    return udp;
}

// The table is in the order in which the peers were last heard, so that the first is the one to forget.
static void remember(struct udp_socket *socket, struct udp_peer *udp) {
    if (udp->remembered)
        HASH_DEL(socket->peers, udp);
    else if (HASH_COUNT(socket->peers) >= PEERS_MAX)
        forget(socket->peers, CLOSE_LIMIT);
    udp->remembered = true;
    HASH_ADD(hh, socket->peers, key, sizeof udp->key, udp);
}

static void take_datagram(struct udp_socket *socket, const uint8_t *bytes, size_t length,
                          const struct sockaddr *address) {
    struct udp_peer *udp = find_peer(socket, address);
    udp->peer.stream.junk_in_a_row = 0; // a datagram is read or not, whatever the last one was
    enum close_code code = conversation_take(&udp->peer, bytes, length, CODEC_END);
    bool broken = code == CLOSE_REJECTED || code == CLOSE_VIOLATION || code == CLOSE_LIMIT;
    udp->peer.close_code = CLOSE_NONE;
    if (udp->peer.session != NULL && !broken)
        remember(socket, udp);
    else
        forget(udp, code);
}

static bool within_limits(struct udp_socket *socket, const struct sockaddr *address) {
    struct channel_parts *parts = socket->parts;
    struct address_key key = address_key_of(address);
    bool allowed = limiter_allows(&parts->datagram_limiter, uv_now(parts->loop), key.ip, sizeof key.ip, NULL);
    socket->refused += !allowed;
    return allowed;
}

static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    static char memory[65536];
    *buffer = uv_buf_init(memory, sizeof memory);
}

static void on_datagram(uv_udp_t *handle, ssize_t count, const uv_buf_t *buffer,
                        const struct sockaddr *address, unsigned flags) {
    struct udp_socket *socket = handle->data;
    // While nothing can be kept a datagram is not even looked at: a codec that had seen it would take the
    // repeat of it for one that is safe, and answer.
    if (gate_is_closed(socket->parts->gate) && address != NULL)
        gate_turn_away(socket->parts->gate);
    else if (count < 0 && !gate_is_closed(socket->parts->gate))
        log_warning("channel %s: udp: %s", socket->channel->name, uv_strerror((int)count));
    else if (address != NULL && count > 0 && within_limits(socket, address))
        take_datagram(socket, (const uint8_t *)buffer->base, (size_t)count, address);
}

static void on_sweep(uv_timer_t *timer) {
    struct udp_socket *socket = timer->data;
    uint64_t now = uv_now(socket->parts->loop);
    uint64_t idle = (uint64_t)socket->parts->config->limits.idle_timeout * 1000;
    while (socket->peers != NULL && now - socket->peers->peer.last_heard > idle)
        forget(socket->peers, CLOSE_INACTIVE);
}

int udp_bind(struct udp_socket *udp, struct channel_parts *parts, const struct config_channel *channel,
             struct stream_counters *counters) {
    *udp = (struct udp_socket){.parts = parts, .channel = channel, .counters = counters};
    uv_udp_init_ex(parts->loop, &udp->socket, channel->udp.ss_family);
    uv_timer_init(parts->loop, &udp->sweep);
    udp->socket.data = udp->sweep.data = udp;
    uv_timer_start(&udp->sweep, on_sweep, SWEEP_INTERVAL, SWEEP_INTERVAL);
    int result = parts->config->workers < 2 ? 0 : socket_share_port((const uv_handle_t *)&udp->socket);
    if (result == 0)
        result = uv_udp_bind(&udp->socket, (const struct sockaddr *)&channel->udp, 0);
    return result != 0 ? result : uv_udp_recv_start(&udp->socket, give_buffer, on_datagram);
}

void udp_close(struct udp_socket *udp) {
    while (udp->peers != NULL)
        forget(udp->peers, CLOSE_RESTART);
    uv_close((uv_handle_t *)&udp->socket, NULL);
    uv_close((uv_handle_t *)&udp->sweep, NULL);
}

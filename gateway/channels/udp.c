// Trackers over UDP; see udp.h.
#include "gateway/channels/udp.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uthash.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/channels/conversation.h"
#include "gateway/channels/datagram.h"
#include "gateway/channels/event.h"
#include "gateway/channels/proxy.h"
#include "gateway/channels/tap.h"

#define PEERS_MAX      100000 // addresses that are remembered
#define TAKEN_AT_ONCE  32     // datagrams in a turn of the loop
#define SWEEP_INTERVAL 5000   // milliseconds

struct udp_peer {
    struct peer peer; // first, so that the one is the other
    struct udp_socket *socket;
    struct address_key key;
    struct datagram_ends ends; // of the last datagram
    bool remembered;           // stands in the socket's table
    UT_hash_handle hh;
};

static void send_datagram(struct peer *peer, const uint8_t *bytes, size_t length) {
    struct udp_peer *udp = (struct udp_peer *)peer;
    int result = datagram_send(udp->socket->descriptor, &udp->ends, bytes, length);
    if (result == 0) {
        peer->sent += length;
        tap_sent(peer, bytes, length);
    } else // as any datagram may be; the device, or the command, tries again
        peer_warn(peer, "send", NULL, "a datagram of %zu bytes could not be sent: %s", length,
                  uv_strerror(result));
}

static void forget(struct udp_peer *udp, enum close_code code) {
    if (udp->peer.told)
        event_closed(&udp->peer, code);
    if (udp->remembered)
        HASH_DEL(udp->socket->peers, udp);
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
    conversation_begin(&udp->peer, socket->parts, socket->channel, socket->counters, &udp_transport, address);
    return udp;
}

// The table is in the order in which the peers were last heard, so that the first is the one to forget.
static void remember(struct udp_socket *socket, struct udp_peer *udp) {
    if (udp->remembered)
        HASH_DEL(socket->peers, udp);
    else if (HASH_COUNT(socket->peers) >= socket->peers_max)
        forget(socket->peers, CLOSE_LIMIT);
    udp->remembered = true;
    HASH_ADD(hh, socket->peers, key, sizeof udp->key, udp);
}

// Each record counts as a datagram of its own: it costs as much.
static void charge(const struct peer *peer, uint64_t records) {
    struct channel_parts *parts = peer->parts;
    if (records > 1)
        limiter_charge(&parts->datagram_limiter, uv_now(parts->loop), peer->ip, sizeof peer->ip,
                       (unsigned)records - 1);
}

// remote is the tracker; what is sent to it goes to the other end, which may be a balancer.
static void take_datagram(struct udp_socket *socket, const struct sockaddr *remote, const uint8_t *bytes,
                          size_t length, const struct datagram_ends *ends) {
    struct udp_peer *udp = find_peer(socket, remote);
    udp->ends = *ends;
    udp->peer.stream.junk_in_a_row = 0; // a datagram is read or not, whatever the last one was
    udp->peer.refused = false;          // no connection ends for it: the device has begun anew
    uint64_t before = udp->peer.messages;
    enum close_code code = conversation_take(&udp->peer, bytes, length, CODEC_END);
    charge(&udp->peer, udp->peer.messages - before);
    bool ended = code == CLOSE_BY_DEVICE || code == CLOSE_VIOLATION;
    udp->peer.close_code = CLOSE_NONE;
    if (udp->peer.places != NULL && !ended)
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

static void report_header(struct udp_socket *socket, const struct datagram_ends *ends, const char *reason) {
    struct udp_peer *udp = find_peer(socket, (const struct sockaddr *)&ends->remote);
    conversation_report(&udp->peer, "proxy", "PROXY_HEADER", reason);
    if (!udp->remembered)
        forget(udp, CLOSE_VIOLATION);
}

// What a balancer says about the datagram; without one, nothing.
static struct proxy_header read_header(struct udp_socket *socket, const struct datagram_ends *ends,
                                       const uint8_t *bytes, size_t length) {
    struct proxy_header header = {.verdict = PROXY_OWN};
    if (!socket->channel->proxy_protocol)
        return header;
    if (proxy_is_trusted(socket->channel, (const struct sockaddr *)&ends->remote))
        header = proxy_read(bytes, length, true);
    else
        header = (struct proxy_header){.verdict = PROXY_BAD,
                                       .reason = "it is none of the balancers of proxy_from"};
    if (header.verdict == PROXY_BAD)
        report_header(socket, ends, header.reason);
    return header;
}

static void take_from(struct udp_socket *socket, const struct datagram_ends *ends, const uint8_t *bytes,
                      size_t length) {
    struct proxy_header header = read_header(socket, ends, bytes, length);
    bool proxied = header.verdict == PROXY_FROM;
    const struct sockaddr *remote = (const struct sockaddr *)(proxied ? &header.remote : &ends->remote);
    if (header.verdict != PROXY_BAD && length > header.length && within_limits(socket, remote))
        take_datagram(socket, remote, bytes + header.length, length - header.length, ends);
}

static void on_datagram(void *context, const struct datagram_ends *ends, const uint8_t *bytes,
                        size_t length) {
    struct udp_socket *socket = context;
    // While nothing can be kept a datagram is not even looked at: a codec that had seen it would take the
    // repeat of it for one that is safe, and answer.
    if (gate_is_closed(socket->parts->gate))
        gate_turn_away(socket->parts->gate);
    else
        take_from(socket, ends, bytes, length);
}

static void on_readable(uv_poll_t *poll, int status, int events) {
    struct udp_socket *socket = poll->data;
    unsigned taken = 0;
    int result;
    // The rest waits for the next turn. One at least is taken, so that no socket waits for another.
    do
        result = datagram_receive(socket->descriptor, on_datagram, socket); // and the error, if there is one
    while (result > 0 && ++taken < TAKEN_AT_ONCE && gate_takes_more(socket->parts->gate));
    if (status != 0)
        uv_poll_start(poll, UV_READABLE, on_readable); // which libuv has stopped
    if (result < 0)
        log_warning("channel %s: udp: %s", socket->channel->name, uv_strerror(result));
}

static void on_sweep(uv_timer_t *timer) {
    struct udp_socket *socket = timer->data;
    uint64_t now = uv_now(socket->parts->loop);
    uint64_t idle = (uint64_t)socket->parts->config->limits.idle_timeout * 1000;
    bool may = true;
    for (; socket->peers != NULL && now - socket->peers->peer.last_heard > idle && may;
         may = gate_does_more(socket->parts->gate))
        forget(socket->peers, CLOSE_INACTIVE);
    if (!may)
        uv_timer_start(timer, on_sweep, 1, SWEEP_INTERVAL);
}

static void start(struct udp_socket *udp) {
    uv_poll_init_socket(udp->parts->loop, &udp->socket, udp->descriptor);
    uv_timer_init(udp->parts->loop, &udp->sweep);
    udp->socket.data = udp->sweep.data = udp;
    uv_timer_start(&udp->sweep, on_sweep, SWEEP_INTERVAL, SWEEP_INTERVAL);
    uv_poll_start(&udp->socket, UV_READABLE, on_readable);
}

int udp_bind(struct udp_socket *udp, struct channel_parts *parts, const struct config_channel *channel,
             struct stream_counters *counters) {
    int descriptor = datagram_open(&channel->udp, parts->config->workers >= 2);
    if (descriptor < 0)
        return descriptor;
    *udp = (struct udp_socket){.parts = parts,
                               .channel = channel,
                               .counters = counters,
                               .descriptor = descriptor,
                               .peers_max = PEERS_MAX};
    start(udp);
    return 0;
}

static void on_closed(uv_handle_t *handle) {
    const struct udp_socket *udp = handle->data;
    close(udp->descriptor);
}

void udp_close(struct udp_socket *udp) {
    while (udp->peers != NULL)
        forget(udp->peers, CLOSE_RESTART);
    uv_close((uv_handle_t *)&udp->socket, on_closed);
    uv_close((uv_handle_t *)&udp->sweep, NULL);
}

// Channels over UDP: the addresses that devices were heard from, and what to send back to them.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/channels/channel.h"
#include "gateway/channels/event.h"
#include "gateway/run/gateway.h"

#define PEERS_MAX      100000 // addresses remembered; beyond that the one heard longest ago is forgotten
#define SWEEP_INTERVAL 5000   // milliseconds
#define ACK_MAX        512    // bytes of an acknowledgement

struct udp_peer {
    struct peer peer; // first, so that the one is the other
    struct address_key key;
    struct sockaddr_storage address;
    bool remembered;   // stands in the channel's table
    char ack[ACK_MAX]; // for the datagram at hand; empty without one
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
    if (uv_udp_try_send(&peer->channel->udp, &buffer, 1, address) >= 0)
        return;
    struct send *send = must_have(malloc(sizeof *send + length));
    memcpy(send->bytes, bytes, length);
    buffer = uv_buf_init((char *)send->bytes, (unsigned)length);
    if (uv_udp_send(&send->request, &peer->channel->udp, &buffer, 1, address, on_sent) != 0)
        free(send);
}

static void forget(struct udp_peer *udp, enum close_code code) {
    if (udp->remembered) {
        event_closed(&udp->peer, code);
        HASH_DEL(udp->peer.channel->udp_peers, udp);
    }
    peer_release(&udp->peer);
    free(udp);
}

// A device that was heard from another address: nothing is sent to this one any more.
static void close_peer(struct peer *peer, enum close_code code) {
    log_debug("channel %s, %s: udp: %s", peer->channel->config->name, peer->address, close_code_text(code));
    forget((struct udp_peer *)peer, code);
}

static const struct peer_transport udp_transport = {
    .is_udp = true, .send = send_datagram, .close = close_peer};

// --- acknowledgements ---

static size_t append_value(char *text, size_t used, const struct message *message, enum field field) {
    const struct message_value *value = message_get(message, field);
    char number[DECIMAL_TEXT_MAX];
    if (value == NULL)
        return used;
    if (value->type == MESSAGE_NUMBER) {
        decimal_write(value->number, number);
        return used + (size_t)snprintf(text + used, ACK_MAX - used, "%s", number);
    }
    return used + (size_t)snprintf(text + used, ACK_MAX - used, "%.*s", (int)value->text.length,
                                   message->text + value->text.offset);
}

// {seq}, {type} and {ident} in the configured text stand for what the first record of the datagram says.
void channel_acknowledge_datagram(struct peer *peer, const struct message *message) {
    static const struct {
        const char *name;
        enum field field;
    } places[] = {{"{seq}", FIELD_MESSAGE_SEQNUM}, {"{type}", FIELD_MESSAGE_TYPE}, {"{ident}", FIELD_IDENT}};
    const char *next = peer->channel->config->udp_ack;
    if (!peer->transport->is_udp || next == NULL)
        return;
    struct udp_peer *udp = (struct udp_peer *)peer;
    size_t used = 0;
    if (udp->ack[0] != '\0')
        return;
    while (*next != '\0' && used + 80 < ACK_MAX) {
        size_t i = 0;
        while (i < 3 && strncmp(next, places[i].name, strlen(places[i].name)) != 0)
            i++;
        if (i == 3) {
            udp->ack[used++] = *next++;
            continue;
        }
        next += strlen(places[i].name);
        used = append_value(udp->ack, used, message, places[i].field);
    }
    udp->ack[used] = '\0';
}

// --- receiving ---

static struct udp_peer *find_peer(struct channel *channel, const struct sockaddr *address) {
    struct address_key key = address_key_of(address);
    struct udp_peer *udp;
    HASH_FIND(hh, channel->udp_peers, &key, sizeof key, udp);
    if (udp != NULL)
        return udp;
    udp = must_have(calloc(1, sizeof *udp));
    udp->key = key;
    memcpy(&udp->address, address,
           address->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
    peer_init(&udp->peer, channel->gateway, channel, &udp_transport, address);
    return udp;
}

// The table is in the order in which the peers were last heard, so that the first is the one to forget.
static void remember(struct channel *channel, struct udp_peer *udp) {
    if (udp->remembered)
        HASH_DEL(channel->udp_peers, udp);
    else if (HASH_COUNT(channel->udp_peers) >= PEERS_MAX)
        forget(channel->udp_peers, CLOSE_LIMIT);
    udp->remembered = true;
    HASH_ADD(hh, channel->udp_peers, key, sizeof udp->key, udp);
}

static void take_datagram(struct channel *channel, const uint8_t *bytes, size_t length,
                          const struct sockaddr *address) {
    struct gateway *gateway = channel->gateway;
    struct address_key key = address_key_of(address);
    if (!limiter_allows(&gateway->datagram_limiter, uv_now(&gateway->loop), key.ip, sizeof key.ip, NULL)) {
        channel->refused_datagrams++;
        return;
    }
    struct udp_peer *udp = find_peer(channel, address);
    udp->ack[0] = '\0';
    udp->peer.stream.junk_in_a_row = 0; // a datagram is read or not, whatever the last one was
    enum close_code code = peer_take(&udp->peer, bytes, length, CODEC_END);
    if (udp->ack[0] != '\0' && code == CLOSE_NONE)
        peer_send_when_safe(&udp->peer, (const uint8_t *)udp->ack, strlen(udp->ack));
    bool broken = code == CLOSE_REJECTED || code == CLOSE_VIOLATION || code == CLOSE_LIMIT;
    udp->peer.close_code = CLOSE_NONE;
    if (udp->peer.session != NULL && !broken)
        remember(channel, udp);
    else
        forget(udp, code);
}

static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    static char memory[65536];
    *buffer = uv_buf_init(memory, sizeof memory);
}

static void on_datagram(uv_udp_t *socket, ssize_t count, const uv_buf_t *buffer,
                        const struct sockaddr *address, unsigned flags) {
    struct channel *channel = socket->data;
    // While nothing can be kept a datagram is not even looked at: a codec that had seen it would take the
    // repeat of it for one that is safe, and answer.
    if (channel->gateway->paused)
        channel->gateway->turned_away += address != NULL;
    else if (count < 0)
        log_warning("channel %s: udp: %s", channel->config->name, uv_strerror((int)count));
    else if (address != NULL && count > 0)
        take_datagram(channel, (const uint8_t *)buffer->base, (size_t)count, address);
}

static void on_sweep(uv_timer_t *timer) {
    struct channel *channel = timer->data;
    uint64_t now = uv_now(&channel->gateway->loop);
    uint64_t idle = (uint64_t)channel->gateway->config->limits.idle_timeout * 1000;
    while (channel->udp_peers != NULL && now - channel->udp_peers->peer.last_heard > idle)
        forget(channel->udp_peers, CLOSE_INACTIVE);
}

int udp_bind(struct channel *channel) {
    uv_udp_init_ex(&channel->gateway->loop, &channel->udp, channel->config->udp.ss_family);
    uv_timer_init(&channel->gateway->loop, &channel->udp_sweep);
    channel->udp.data = channel->udp_sweep.data = channel;
    uv_timer_start(&channel->udp_sweep, on_sweep, SWEEP_INTERVAL, SWEEP_INTERVAL);
    int result = channel_share_port((uv_handle_t *)&channel->udp, channel->gateway->config);
    if (result == 0)
        result = uv_udp_bind(&channel->udp, (const struct sockaddr *)&channel->config->udp, 0);
    return result != 0 ? result : uv_udp_recv_start(&channel->udp, give_buffer, on_datagram);
}

void udp_close_all(struct channel *channel) {
    while (channel->udp_peers != NULL)
        forget(channel->udp_peers, CLOSE_RESTART);
    uv_close((uv_handle_t *)&channel->udp, NULL);
    uv_close((uv_handle_t *)&channel->udp_sweep, NULL);
}

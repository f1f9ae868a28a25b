// What TCP connections and UDP addresses have in common; see peer.h.
#include "gateway/channels/peer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"

// Replies that wait, the last ones, among which a repeated one is looked for: more than a codec remembers frames.
#define REPEATS_LOOKED 256
#define DATAGRAM_MAX   65536

struct pending_reply {
    struct outbox_waiter waiter; // first, so that the one is the other
    struct peer *peer;
    struct pending_reply *prev, *next;
    uint64_t datagram;               // that it answers; 0 over TCP
    bool now;                        // it waits for no message
    bool gone;                       // it was sent with another one, or is left out
    char ident[CODEC_IDENT_MAX + 1]; // of the device that hears it
    uint8_t *refusal;                // sent when a message is refused, or NULL
    size_t refusal_length;
    size_t length;
    uint8_t bytes[];
};

const char *peer_ident(const struct peer *peer) {
    return peer->ident != NULL ? peer->ident : "-";
}

__attribute__((format(printf, 4, 0))) static void log_line(const struct peer *peer, enum log_level level,
                                                           unsigned suppressed, const char *format,
                                                           va_list arguments) {
    char *text = text_vformat(format, arguments), note[LIMITER_NOTE_MAX];
    log_at(level, "channel %s, %s, device %s: %s%s", peer->channel->name, peer->address, peer_ident(peer),
           text, limiter_note(suppressed, note));
    free(text);
}

void peer_log(const struct peer *peer, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    log_line(peer, LOG_INFO, 0, format, arguments);
    va_end(arguments);
}

bool peer_may_tell(const struct peer *peer, const char *kind, unsigned *suppressed) {
    struct channel_parts *parts = peer->parts;
    struct {
        const char *kind;
        unsigned char ip[16];
    } source = {.kind = kind};
    memcpy(source.ip, peer->ip, sizeof source.ip);
    return limiter_allows(&parts->log_limiter, uv_now(parts->loop), &source, sizeof source, suppressed);
}

bool peer_may_tell_of(const struct peer *peer, const char *kind, const char *ident) {
    struct channel_parts *parts = peer->parts;
    struct {
        const char *kind;
        char ident[CODEC_IDENT_MAX + 1];
    } source;
    memset(&source, 0, sizeof source); // what lies between is hashed too
    source.kind = kind;
    snprintf(source.ident, sizeof source.ident, "%s", ident);
    return limiter_allows(&parts->log_limiter, uv_now(parts->loop), &source, sizeof source, NULL);
}

bool peer_warn(const struct peer *peer, const char *kind, unsigned *suppressed, const char *format, ...) {
    unsigned before = 0;
    va_list arguments;
    if (!peer_may_tell(peer, kind, &before))
        return false;
    va_start(arguments, format);
    log_line(peer, LOG_WARNING, before, format, arguments);
    va_end(arguments);
    if (suppressed != NULL)
        *suppressed = before;
    return true;
}

// --- replies ---

static void free_reply(struct pending_reply *reply) {
    reply->peer->reply_count--;
    reply->peer->parts->reply_count--;
    free(reply->refusal);
    free(reply);
}

// The codec believes that it has passed on what the broker refused, and would say so. A connection ends for it.
static void note_refusal(struct peer *peer, const char *ident) {
    peer->refused = true;
    if (peer->transport->is_udp)
        stream_forget(&peer->stream, ident);
}

// What goes out for it: nothing when it has no word for what the broker refused.
static const uint8_t *bytes_of(const struct pending_reply *reply, bool safe, size_t *length) {
    bool refused = !safe && !reply->now;
    *length = refused ? reply->refusal_length : reply->length;
    return refused ? reply->refusal : reply->bytes;
}

static void send_alone(struct peer *peer, const struct pending_reply *reply, bool safe) {
    size_t length;
    const uint8_t *bytes = bytes_of(reply, safe, &length);
    if (bytes != NULL)
        peer->transport->send(peer, bytes, length);
}

// In one datagram all that answer the same datagram: they wait for the same messages.
static void send_together(struct peer *peer, struct pending_reply *reply, bool safe) {
    static uint8_t packet[DATAGRAM_MAX];
    size_t total = 0, length;
    for (struct pending_reply *next = reply; next != NULL && next->datagram == reply->datagram;
         next = next->next) {
        const uint8_t *bytes = bytes_of(next, safe, &length);
        if (!next->gone && bytes != NULL) {
            memcpy(packet + total, bytes, length);
            total += length;
        }
        next->gone = true;
    }
    if (total > 0)
        peer->transport->send(peer, packet, total);
}

static void on_safe(struct outbox_waiter *waiter, bool safe) {
    struct pending_reply *reply = (struct pending_reply *)waiter;
    struct peer *peer = reply->peer;
    if (reply->datagram == 0)
        send_alone(peer, reply, safe);
    else
        send_together(peer, reply, safe);
    if (!safe && !reply->now && reply->refusal == NULL)
        note_refusal(peer, reply->ident);
    DL_DELETE(peer->replies, reply);
    free_reply(reply);
}

// Whether the device repeats what is not safe yet. A codec knows the last frames of a connection again, and puts out
// no message for those, so that nothing else bounds how often they come.
static bool is_pending(const struct peer *peer, const uint8_t *bytes, size_t length) {
    const struct pending_reply *reply = peer->replies != NULL ? peer->replies->prev : NULL;
    for (unsigned looked = 0; reply != NULL && looked < REPEATS_LOOKED; looked++) {
        if (reply->length == length && memcmp(reply->bytes, bytes, length) == 0)
            return true;
        reply = reply == peer->replies ? NULL : reply->prev;
    }
    return false;
}

static struct pending_reply *add_reply(struct peer *peer, const uint8_t *bytes, size_t length) {
    struct pending_reply *reply = must_have(malloc(sizeof *reply + length));
    *reply = (struct pending_reply){.peer = peer, .length = length, .datagram = peer->datagrams};
    reply->waiter = (struct outbox_waiter){.reports = true, .done = on_safe};
    strcpy(reply->ident, peer->stream.ident);
    memcpy(reply->bytes, bytes, length);
    DL_APPEND(peer->replies, reply);
    peer->unsettled++;
    peer->reply_count++;
    peer->parts->reply_count++;
    return reply;
}

// Nothing else bounds replies that wait for what was said before, such as those to records that cannot be read.
static bool has_too_many(const struct peer *peer) {
    return peer->reply_count >= PEER_REPLIES_MAX || peer->parts->reply_count >= PEER_REPLIES_ALL_MAX;
}

void peer_send_when_safe(struct peer *peer, const uint8_t *bytes, size_t length) {
    uint64_t first = peer->first_number;
    peer->first_number = 0;
    peer->latest_reply = NULL;
    if (peer->refused || (first == 0 && (has_too_many(peer) || is_pending(peer, bytes, length))))
        return;
    struct pending_reply *reply = add_reply(peer, bytes, length);
    reply->waiter.first = first != 0 ? first : peer->last_number;
    reply->waiter.last = peer->last_number;
    peer->latest_reply = reply;
}

void peer_send_now(struct peer *peer, const uint8_t *bytes, size_t length) {
    if (peer->transport->is_udp)
        add_reply(peer, bytes, length)->now = true;
    else
        peer->transport->send(peer, bytes, length);
}

void peer_send_when_refused(struct peer *peer, const uint8_t *bytes, size_t length) {
    struct pending_reply *reply = peer->latest_reply;
    if (reply == NULL)
        return;
    free(reply->refusal);
    reply->refusal = must_have(malloc(length + 1));
    reply->refusal_length = length;
    memcpy(reply->refusal, bytes, length);
}

// The first of those that are not settled, or NULL.
static struct pending_reply *first_unsettled(const struct peer *peer) {
    struct pending_reply *reply = peer->unsettled > 0 ? peer->replies->prev : NULL;
    for (size_t i = 1; i < peer->unsettled; i++)
        reply = reply->prev;
    return reply;
}

// All replies to a datagram wait for all of its messages.
static void join_replies(const struct peer *peer, struct pending_reply *replies) {
    struct pending_reply *reply, *first = replies;
    while (first != NULL && first->now)
        first = first->next;
    for (reply = replies; reply != NULL && first != NULL; reply = reply->next) {
        reply->waiter.first = first->waiter.first;
        reply->waiter.last = peer->last_number;
    }
}

static void bound_replies(const struct peer *peer, struct pending_reply *replies, size_t taken) {
    size_t total = 0, left_out = 0;
    for (struct pending_reply *reply = replies; reply != NULL; reply = reply->next) {
        size_t length = reply->length > reply->refusal_length ? reply->length : reply->refusal_length;
        reply->gone = total + length > taken;
        total += reply->gone ? 0 : length;
        left_out += reply->gone;
    }
    if (left_out > 0)
        peer_warn(peer, "answer", NULL,
                  "answers to a datagram of %zu bytes left out, because they are longer than it: %zu", taken,
                  left_out);
}

// Being called back takes a reply out of the list.
void peer_settle_replies(struct peer *peer, size_t taken) {
    struct pending_reply *reply = first_unsettled(peer), *next;
    if (peer->transport->is_udp) {
        join_replies(peer, reply);
        bound_replies(peer, reply, taken);
        peer->first_number = 0;
    }
    peer->unsettled = 0;
    peer->latest_reply = NULL;
    for (; reply != NULL; reply = next) {
        next = reply->next;
        outbox_when_safe(peer->parts->outbox, &reply->waiter);
    }
}

void peer_drop_unsettled(struct peer *peer) {
    struct pending_reply *reply = first_unsettled(peer), *next;
    peer->unsettled = 0;
    peer->latest_reply = NULL;
    for (; reply != NULL; reply = next) {
        next = reply->next;
        DL_DELETE(peer->replies, reply);
        free_reply(reply);
    }
}

void peer_drop_replies(struct peer *peer) {
    struct pending_reply *reply, *next;
    peer_drop_unsettled(peer);
    DL_FOREACH_SAFE(peer->replies, reply, next) {
        outbox_forget(peer->parts->outbox, &reply->waiter);
        free_reply(reply);
    }
    peer->replies = NULL;
}

// What TCP connections and UDP addresses have in common; see peer.h.
#include "gateway/channels/peer.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"

// Replies that wait, the last ones, among which a repeated one is looked for: more than a codec remembers frames.
#define REPEATS_LOOKED 256

struct pending_reply {
    struct outbox_waiter waiter; // first, so that the one is the other
    struct peer *peer;
    struct pending_reply *prev, *next;
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

static void on_safe(struct outbox_waiter *waiter, bool safe) {
    struct pending_reply *reply = (struct pending_reply *)waiter;
    struct peer *peer = reply->peer;
    DL_DELETE(peer->replies, reply);
    if (safe)
        peer->transport->send(peer, reply->bytes, reply->length);
    else if (reply->refusal != NULL)
        peer->transport->send(peer, reply->refusal, reply->refusal_length);
    else
        note_refusal(peer, reply->ident);
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
    struct pending_reply *reply = must_have(malloc(sizeof *reply + length));
    *reply = (struct pending_reply){.peer = peer, .length = length};
    reply->waiter = (struct outbox_waiter){
        .first = first != 0 ? first : peer->last_number, .last = peer->last_number, .done = on_safe};
    strcpy(reply->ident, peer->stream.ident);
    memcpy(reply->bytes, bytes, length);
    DL_APPEND(peer->replies, reply);
    peer->latest_reply = reply;
    peer->unsettled++;
    peer->reply_count++;
    peer->parts->reply_count++;
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

// Being called back takes a reply out of the list.
void peer_settle_replies(struct peer *peer) {
    struct pending_reply *reply = first_unsettled(peer), *next;
    bool is_udp = peer->transport->is_udp;
    uint64_t first = reply != NULL ? reply->waiter.first : 0;
    peer->unsettled = 0;
    peer->latest_reply = NULL;
    for (; reply != NULL; reply = next) {
        next = reply->next;
        if (is_udp) {
            reply->waiter.first = first;
            reply->waiter.last = peer->last_number;
        }
        outbox_when_safe(peer->parts->outbox, &reply->waiter);
    }
    if (is_udp)
        peer->first_number = 0;
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

// What TCP connections and UDP addresses have in common; see peer.h.
#include "gateway/channels/peer.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"

struct pending_reply {
    struct outbox_waiter waiter; // first, so that the one is the other
    struct peer *peer;
    struct pending_reply *prev, *next;
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

static void on_safe(struct outbox_waiter *waiter, bool safe) {
    struct pending_reply *reply = (struct pending_reply *)waiter;
    struct peer *peer = reply->peer;
    DL_DELETE(peer->replies, reply);
    if (safe)
        peer->transport->send(peer, reply->bytes, reply->length);
    else
        peer->refused = true;
    free(reply);
}

void peer_send_when_safe(struct peer *peer, const uint8_t *bytes, size_t length) {
    uint64_t first = peer->first_number;
    peer->first_number = 0;
    if (peer->refused)
        return;
    struct pending_reply *reply = must_have(malloc(sizeof *reply + length));
    *reply = (struct pending_reply){.peer = peer, .length = length};
    reply->waiter = (struct outbox_waiter){
        .first = first != 0 ? first : peer->last_number, .last = peer->last_number, .done = on_safe};
    memcpy(reply->bytes, bytes, length);
    DL_APPEND(peer->replies, reply);
    outbox_when_safe(peer->parts->outbox, &reply->waiter);
}

void peer_drop_replies(struct peer *peer) {
    struct pending_reply *reply, *next;
    DL_FOREACH_SAFE(peer->replies, reply, next) {
        outbox_forget(peer->parts->outbox, &reply->waiter);
        free(reply);
    }
    peer->replies = NULL;
}

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

// Reports that are held, and that the same replies wait for.
struct hold {
    struct peer *peer; // NULL: it is gone
    uint64_t number;   // of the peer's
    unsigned held;     // reports that are not in the outbox, or not safe, yet
    bool answered;     // a reply waits for them
    struct held_waiter *waiters;
    struct hold *prev, *next;
};

// Waits until a report that was held is safe.
struct held_waiter {
    struct outbox_waiter waiter; // first, so that the one is the other
    struct hold *hold;
    struct held_waiter *prev, *next;
};

struct pending_reply {
    struct outbox_waiter waiter;    // first, so that the one is the other
    uint64_t first_hold, last_hold; // it waits for these as well; 0: for none
    bool put_safe;                  // what the waiter waits for
    bool refused;                   // a message was
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

// --- what is put, and what is held ---

void peer_note_put(struct peer *peer, uint64_t first, uint64_t last, bool background) {
    peer->background = peer->background || background;
    if (peer->first_number == 0)
        peer->first_number = first;
    peer->last_number = last;
    peer->said_at = peer->stream.offset;
}

struct hold *peer_hold(struct peer *peer) {
    peer->said_at = peer->stream.offset;
    if (peer->hold == NULL) {
        peer->hold = must_have(calloc(1, sizeof *peer->hold));
        peer->hold->peer = peer;
        peer->hold->number = ++peer->last_hold;
        DL_APPEND(peer->holds, peer->hold);
    }
    peer->hold->held++;
    return peer->hold;
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

static bool waits_for(const struct pending_reply *reply, const struct hold *hold) {
    return reply->first_hold <= hold->number && hold->number <= reply->last_hold;
}

static void mark_answered(const struct pending_reply *reply) {
    struct hold *hold;
    DL_FOREACH(reply->peer->holds, hold) {
        hold->answered = hold->answered || waits_for(reply, hold);
    }
}

static bool waits_for_any(const struct pending_reply *reply) {
    const struct hold *hold;
    DL_FOREACH(reply->peer->holds, hold) {
        if (waits_for(reply, hold))
            return true;
    }
    return false;
}

// Once all that it waits for is safe.
static void finish_reply(struct pending_reply *reply) {
    struct peer *peer = reply->peer;
    bool safe = !reply->refused;
    if (!reply->put_safe || waits_for_any(reply))
        return;
    if (reply->datagram == 0)
        send_alone(peer, reply, safe);
    else
        send_together(peer, reply, safe);
    if (!safe && !reply->now && reply->refusal == NULL)
        note_refusal(peer, reply->ident);
    DL_DELETE(peer->replies, reply);
    free_reply(reply);
}

static void on_safe(struct outbox_waiter *waiter, bool safe) {
    struct pending_reply *reply = (struct pending_reply *)waiter;
    reply->put_safe = true;
    reply->refused = reply->refused || !safe;
    finish_reply(reply);
}

// --- replies to what was held ---

// Being finished takes a reply out of the list.
static void finish_those_for(struct peer *peer, const struct hold *hold) {
    struct pending_reply *reply, *next;
    DL_FOREACH_SAFE(peer->replies, reply, next) {
        if (waits_for(reply, hold))
            finish_reply(reply);
    }
}

static void end_hold(struct hold *hold) {
    struct peer *peer = hold->peer;
    if (peer != NULL) {
        DL_DELETE(peer->holds, hold);
        if (peer->hold == hold)
            peer->hold = NULL;
        finish_those_for(peer, hold);
        if (peer->holds == NULL && peer->transport->all_out != NULL)
            peer->transport->all_out(peer);
    }
    free(hold);
}

static void note_out(struct hold *hold) {
    if (--hold->held == 0)
        end_hold(hold);
}

static void on_held_safe(struct outbox_waiter *waiter, bool safe) {
    struct held_waiter *held = (struct held_waiter *)waiter;
    struct hold *hold = held->hold;
    struct pending_reply *reply;
    DL_DELETE(hold->waiters, held);
    free(held);
    DL_FOREACH(hold->peer->replies, reply) {
        if (!safe && waits_for(reply, hold))
            reply->refused = true;
    }
    note_out(hold);
}

// Without a reply that waits for it, it is as if it had come now.
static void put_late(const struct hold *hold, uint64_t first, uint64_t last, bool background) {
    struct peer *peer = hold->peer;
    peer->background = peer->background || background;
    if (peer->first_number == 0 && peer->hold == hold)
        peer->first_number = first;
    peer->last_number = last;
}

void peer_hold_out(struct hold *hold, uint64_t first, uint64_t last, bool background) {
    struct peer *peer = hold->peer;
    if (peer != NULL)
        put_late(hold, first, last, background);
    if (peer == NULL || !hold->answered) {
        note_out(hold);
        return;
    }
    struct held_waiter *held = must_have(calloc(1, sizeof *held));
    held->waiter = (struct outbox_waiter){
        .first = first, .last = last, .background = background, .reports = true, .done = on_held_safe};
    held->hold = hold;
    DL_APPEND(hold->waiters, held);
    outbox_when_safe(peer->parts->outbox, &held->waiter);
}

// The peer goes, and nobody is told any more what becomes of its reports.
static void leave_holds(struct peer *peer) {
    struct hold *hold, *next;
    struct held_waiter *held, *after;
    DL_FOREACH_SAFE(peer->holds, hold, next) {
        hold->peer = NULL;
        DL_FOREACH_SAFE(hold->waiters, held, after) {
            outbox_forget(peer->parts->outbox, &held->waiter);
            free(held);
            hold->held--;
        }
        if (hold->held == 0)
            free(hold);
    }
    peer->holds = peer->hold = NULL;
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

// A frame without a message may repeat any other, also where what somebody else has said waits for a reply.
static bool may_repeat(const struct peer *peer, uint64_t first, const struct hold *hold) {
    return (first == 0 && hold == NULL) || peer->said_at != peer->stream.offset;
}

// Of a reply to what was put, held, or both, or to what may be a repeat: then all must be safe that was said before.
static void set_conditions(struct pending_reply *reply, uint64_t first, struct hold *hold) {
    const struct peer *peer = reply->peer;
    bool repeats = may_repeat(peer, first, hold);
    if (first != 0 || repeats) {
        reply->waiter.first = first != 0 ? first : peer->last_number;
        reply->waiter.last = peer->last_number;
    }
    reply->last_hold = repeats ? peer->last_hold : hold != NULL ? hold->number : 0;
    reply->first_hold = repeats ? 1 : hold != NULL ? hold->number : 0;
    mark_answered(reply);
}

void peer_send_when_safe(struct peer *peer, const uint8_t *bytes, size_t length) {
    uint64_t first = peer->first_number;
    struct hold *hold = peer->hold;
    peer->first_number = 0;
    peer->latest_reply = NULL;
    if (!peer->transport->is_udp)
        peer->hold = NULL; // over UDP it is that of the whole datagram
    if (peer->refused ||
        (first == 0 && hold == NULL && (has_too_many(peer) || is_pending(peer, bytes, length))))
        return;
    peer->latest_reply = add_reply(peer, bytes, length);
    set_conditions(peer->latest_reply, first, hold);
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

static uint64_t earlier_of(uint64_t one, uint64_t other) {
    return one == 0 || (other != 0 && other < one) ? other : one;
}

// All replies to a datagram wait for all of its messages.
static void join_replies(const struct peer *peer, struct pending_reply *replies) {
    uint64_t first = peer->first_number, first_hold = peer->hold != NULL ? peer->hold->number : 0;
    struct pending_reply *reply;
    bool all_now = true;
    for (reply = replies; reply != NULL; reply = reply->next) {
        first = earlier_of(first, reply->waiter.first);
        first_hold = earlier_of(first_hold, reply->first_hold);
        all_now = all_now && reply->now;
    }
    for (reply = all_now ? NULL : replies; reply != NULL; reply = reply->next) {
        reply->waiter.first = first;
        reply->waiter.last = first != 0 ? peer->last_number : 0;
        reply->first_hold = first_hold;
        reply->last_hold = first_hold != 0 ? peer->last_hold : 0;
        mark_answered(reply);
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
        peer->hold = NULL;
    }
    peer->unsettled = 0;
    peer->latest_reply = NULL;
    for (; reply != NULL; reply = next) {
        next = reply->next;
        reply->waiter.background = peer->background;
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
    leave_holds(peer);
    peer_drop_unsettled(peer);
    DL_FOREACH_SAFE(peer->replies, reply, next) {
        if (!reply->put_safe)
            outbox_forget(peer->parts->outbox, &reply->waiter);
        free_reply(reply);
    }
    peer->replies = NULL;
}

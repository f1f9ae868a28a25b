// The conversation with a peer; see conversation.h.
#include "gateway/channels/conversation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/channels/event.h"
#include "gateway/channels/guess.h"
#include "gateway/channels/held.h"
#include "gateway/channels/message_stamp.h"
#include "gateway/channels/report.h"
#include "gateway/channels/road.h"
#include "gateway/channels/session.h"
#include "gateway/channels/tap.h"

#define QUOTE_MAX     160 // of bytes in a log line
#define MINUTE        60000
#define BEGINNING_MAX 1024 // bytes that are looked at to guess a protocol

// --- replies ---

static void on_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
    struct peer *peer = context;
    // A device that was turned away is told so, if its protocol can.
    if (peer->close_code != CLOSE_NONE || (peer->refusal != CLOSE_NONE && when != CODEC_NOW))
        return;
    switch (when) {
    case CODEC_NOW:
        peer_send_now(peer, bytes, length);
        break;
    case CODEC_WHEN_SAFE:
        peer_send_when_safe(peer, bytes, length);
        break;
    case CODEC_WHEN_REFUSED:
        peer_send_when_refused(peer, bytes, length);
        break;
    }
}

// --- who it is ---

void conversation_report(const struct peer *peer, const char *kind, const char *verdict, const char *text) {
    struct event_error error = {.code = EVENT_CHANNEL_ERROR, .text = text, .verdict = verdict};
    if (peer_warn(peer, kind, &error.suppressed, "%s", text))
        event_error(peer, &error);
}

static void forget_turned_away(struct peer *peer) {
    free(peer->turned_away);
    peer->turned_away = NULL;
    peer->refusal = CLOSE_NONE;
}

// It costs what this device says. The others that have spoken here, as behind a relay, stay.
static void refuse_device(struct peer *peer, const char *ident, enum close_code code) {
    session_silence(peer);
    forget_turned_away(peer);
    peer->turned_away = must_have(strdup(ident));
    peer->refusal = code;
}

static enum codec_identity turn_away(struct peer *peer, const char *ident, const char *why,
                                     enum close_code code) {
    char text[160];
    snprintf(text, sizeof text, "device %s %s", ident, why);
    refuse_device(peer, ident, code);
    conversation_report(peer, "rejected", "REJECTED", text);
    return CODEC_REFUSED;
}

static enum codec_identity refuse_ident(struct peer *peer) {
    char text[160];
    snprintf(text, sizeof text,
             "not a valid ident: expected 1 to %d letters, digits, dots, dashes, underscores",
             CODEC_IDENT_MAX);
    session_silence(peer);
    forget_turned_away(peer);
    peer->refusal = CLOSE_VIOLATION;
    conversation_report(peer, "ident", "BAD_VALUE", text);
    return CODEC_REFUSED;
}

// A device that changes its address all the time must not fill the log: of such an arrival neither the beginning nor
// the end is told. An address over UDP counts as a connection once it has said who it is.
static void tell_identified(struct peer *peer) {
    bool may = peer_may_tell_of(peer, "identified", peer->ident);
    if (may && !peer->told && peer->transport->is_udp)
        event_accepted(peer, 0);
    peer->told = peer->told || may;
    if (!may)
        return;
    event_identified(peer);
    log_about(peer->ident, LOG_INFO, "channel %s, %s, device %s: identified", peer->channel->name,
              peer->address, peer->ident);
}

// What devices outside the registry say over UDP has a bound in all, since addresses can be forged. It is looked at before
// a record is read: a codec that had read it would take the repeat for one that is safe.
static bool is_too_much(const struct peer *peer, const struct device *device) {
    struct channel_parts *parts = peer->parts;
    return peer->transport->is_udp && !device->listed &&
           limiter_is_spent(&parts->records_limiter, uv_now(parts->loop), "", 0);
}

static void charge(const struct peer *peer, const struct device *device) {
    struct channel_parts *parts = peer->parts;
    if (peer->transport->is_udp && !device->listed)
        limiter_charge(&parts->records_limiter, uv_now(parts->loop), "", 0, 1);
}

// Once a minute of all together: as many as there are addresses would fill the outbox.
static void tell_too_much(const struct peer *peer, const char *ident) {
    struct channel_parts *parts = peer->parts;
    uint64_t now = uv_now(parts->loop);
    char text[160], note[LIMITER_NOTE_MAX];
    struct event_error error = {.code = EVENT_CHANNEL_ERROR,
                                .text = text,
                                .verdict = "REJECTED",
                                .suppressed = parts->too_much_untold};
    if (parts->too_much_told != 0 && now - parts->too_much_told < MINUTE) {
        parts->too_much_untold++;
        return;
    }
    snprintf(text, sizeof text,
             "device %s is not in the registry, and such devices say too much over UDP together", ident);
    log_warning("channel %s, %s, device %s: %s%s", peer->channel->name, peer->address, peer_ident(peer), text,
                limiter_note(parts->too_much_untold, note));
    event_error(peer, &error);
    parts->too_much_told = now;
    parts->too_much_untold = 0;
}

static enum codec_identity turn_away_for_now(struct peer *peer, const char *ident) {
    refuse_device(peer, ident, CLOSE_LIMIT);
    tell_too_much(peer, ident);
    return CODEC_REFUSED;
}

static enum codec_identity on_identify(void *context, const char *ident) {
    struct peer *peer = context;
    if (peer->close_code != CLOSE_NONE)
        return CODEC_REFUSED;
    if (strcmp(peer_ident(peer), ident) == 0)
        return is_too_much(peer, peer->device) ? turn_away_for_now(peer, ident) : CODEC_ACCEPTED;
    if (!device_ident_valid(ident))
        return refuse_ident(peer);
    struct device device = registry_device(peer->parts->registry, ident);
    if (!device.allowed)
        return turn_away(peer, ident, "is not in the registry and unknown devices are rejected",
                         CLOSE_REJECTED);
    if (is_too_much(peer, &device))
        return turn_away_for_now(peer, ident);
    if (!device.listed && peer->parts->config->unknown_devices == UNKNOWN_ACCEPT)
        device.known = session_may_be_known(peer, ident, &device);
    enum session_arrival arrival = session_attach(peer, ident, &device);
    if (arrival == SESSION_KEPT_ELSEWHERE)
        return turn_away(peer, ident, "has a connection, which stays (limits.takeover)", CLOSE_SAME_IDENT);
    forget_turned_away(peer);
    if (arrival == SESSION_MUST_WAIT)
        return stream_postpone(&peer->stream);
    if (arrival == SESSION_NEW_HERE) {
        charge(peer, peer->device);
        tell_identified(peer);
    }
    session_note_heard(peer);
    return CODEC_ACCEPTED;
}

// Whether it is known who speaks. A device that is no longer here, but at another connection, speaks again: a
// codec need not say twice who that is.
static bool has_speaker(struct peer *peer) {
    if (peer->session == NULL && peer->stream.ident[0] != '\0')
        on_identify(peer, peer->stream.ident);
    session_note_heard(peer);
    return peer->close_code == CLOSE_NONE && peer->session != NULL;
}

// --- messages ---

static void report_removed(const struct peer *peer, const struct message_removed *removed) {
    char quoted[QUOTE_MAX], text[QUOTE_MAX + 128];
    size_t length = strlen(removed->text);
    snprintf(text, sizeof text, "%s is left out: '%s' is %s", field_table[removed->field].name,
             log_quote((const uint8_t *)removed->text, length, quoted, sizeof quoted), removed->reason);
    struct event_error error = {.code = EVENT_VALUES_REMOVED,
                                .text = text,
                                .verdict = codec_verdict_name(CODEC_BAD_VALUE),
                                .bytes = (const uint8_t *)removed->text,
                                .length = length};
    if (peer_warn(peer, "removed", &error.suppressed, "%s (value %llu of the channel)", text,
                  (unsigned long long)peer->stream.counters->removed_values))
        event_error(peer, &error);
}

static void log_removed(const struct peer *peer, const struct message *message) {
    for (size_t i = 0; i < message->removed_count && i < MESSAGE_REMOVED_MAX; i++) {
        const struct message_removed *removed = &message->removed[i];
        if (removed->reason == message_absent)
            log_debug("channel %s, %s, device %s: no %s in the report", peer->channel->name, peer->address,
                      peer_ident(peer), field_table[removed->field].name);
        else
            report_removed(peer, removed);
    }
}

static void on_message(void *context, struct message *message) {
    struct peer *peer = context;
    if (peer->close_code != CLOSE_NONE || !has_speaker(peer))
        return;
    struct session *session = peer->session;
    const struct report_origin origin = {.session = session,
                                         .ident = session->ident,
                                         .channel_id = peer->channel->id,
                                         .received = clock_now(),
                                         .background =
                                             registry_is_outside(peer->parts->registry, &session->device)};
    peer->messages++;
    charge(peer, &session->device);
    message_stamp(message, &(struct message_origin){.codec = peer->channel->codec,
                                                    .received = origin.received,
                                                    .channel_id = origin.channel_id,
                                                    .peer = peer->address,
                                                    .device = &session->device});
    log_removed(peer, message);
    if (held_take(peer->parts->held, peer, &session->held, &origin, message))
        return;
    struct report_numbers numbers = report_publish(peer->parts, &origin, message);
    peer_note_put(peer, numbers.first, numbers.last, origin.background);
}

static void report_unidentified(const struct peer *peer, const struct codec_answer *answer) {
    char text[160];
    snprintf(text, sizeof text, "NOT_IDENTIFIED: an answer to '%s' from a device that has not said who it is",
             answer->key);
    conversation_report(peer, "not identified", codec_verdict_name(CODEC_NOT_IDENTIFIED), text);
}

static void tell_answered(struct peer *peer, const struct codec_answer *answer) {
    const struct channel_observer *observer = peer->parts->observer;
    struct road from = road_of(peer, peer->session);
    observer->answered(observer->context, &from, answer);
}

static void on_answer(void *context, const struct codec_answer *answer) {
    struct peer *peer = context;
    if (peer->close_code != CLOSE_NONE)
        return;
    if (has_speaker(peer))
        tell_answered(peer, answer);
    else if (!answer->implicit)
        report_unidentified(peer, answer);
}

static void on_fault(void *context, const struct stream_fault *fault) {
    struct peer *peer = context;
    const struct stream_counters *counters = peer->stream.counters;
    char quoted[QUOTE_MAX];
    uint64_t rejected = 0;
    for (int verdict = CODEC_OK + 1; verdict < CODEC_VERDICT_COUNT; verdict++)
        rejected += counters->verdicts[verdict];
    struct event_error error = {.code = peer->session != NULL ? EVENT_DEVICE_ERROR : EVENT_CHANNEL_ERROR,
                                .text = fault->reason,
                                .verdict = fault->verdict,
                                .has_offset = true,
                                .offset = fault->offset,
                                .bytes = fault->bytes,
                                .length = fault->length};
    if (peer_warn(peer, fault->verdict, &error.suppressed,
                  "%s at offset %llu: %s: \"%s\" (%llu records rejected, %llu bytes of junk on this channel)",
                  fault->verdict, (unsigned long long)fault->offset, fault->reason,
                  log_quote(fault->bytes, fault->length, quoted, sizeof quoted), (unsigned long long)rejected,
                  (unsigned long long)counters->junk_bytes))
        event_error(peer, &error);
}

// A device that leaves a relay leaves the others there.
static bool on_goodbye(void *context, const char *ident) {
    struct peer *peer = context;
    if (peer->place_count <= 1)
        return true;
    session_leave(peer, ident);
    return false;
}

// --- a device on the wrong port ---

static void remember_beginning(struct peer *peer, const uint8_t *bytes, size_t length) {
    size_t room = BEGINNING_MAX - peer->beginning_length;
    if (peer->places != NULL || peer->foreign || length == 0 || room == 0)
        return;
    if (peer->beginning == NULL)
        peer->beginning = must_have(malloc(BEGINNING_MAX));
    length = length < room ? length : room;
    memcpy(peer->beginning + peer->beginning_length, bytes, length);
    peer->beginning_length += length;
}

static void forget_beginning(struct peer *peer) {
    free(peer->beginning);
    peer->beginning = NULL;
    peer->beginning_length = peer->guessed_length = 0;
}

// Says once what a device speaks that its channel does not understand.
static void tell_foreign(struct peer *peer) {
    char text[GUESS_TEXT_MAX];
    if (peer->places != NULL || peer->foreign || peer->beginning_length == peer->guessed_length)
        return; // and once all of the beginning is there, that was the last time
    peer->guessed_length = peer->beginning_length;
    if (!guess_protocol(peer, peer->beginning, peer->beginning_length, text))
        return;
    peer->foreign = true;
    conversation_report(peer, "foreign", "OTHER_PROTOCOL", text);
}

static const struct stream_sink sink = {
    .identify = on_identify,
    .message = on_message,
    .reply = on_reply,
    .answer = on_answer,
    .fault = on_fault,
    .goodbye = on_goodbye,
    .goes_on = true,
};

// --- beginning, taking, ending ---

void conversation_move(struct peer *peer, const struct sockaddr *address) {
    memcpy(peer->ip, address_key_of(address).ip, sizeof peer->ip);
    address_write(address, peer->address);
}

void conversation_begin(struct peer *peer, struct channel_parts *parts, const struct config_channel *channel,
                        struct stream_counters *counters, const struct peer_transport *transport,
                        const struct sockaddr *address) {
    peer->parts = parts;
    peer->channel = channel;
    peer->transport = transport;
    peer->opened = peer->last_heard = uv_now(parts->loop);
    peer->serial = ++parts->last_serial;
    conversation_move(peer, address);
    stream_init(&peer->stream, channel->codec, &sink, peer, counters);
    peer->stream.setting.transport = transport->is_udp ? CODEC_UDP : CODEC_TCP;
    peer->stream.setting.options = channel->options;
}

void conversation_end(struct peer *peer) {
    forget_beginning(peer);
    tap_forget(peer);
    peer_drop_replies(peer);
    session_detach(peer);
    stream_free(&peer->stream);
    free(peer->turned_away);
}

static enum close_code code_of(enum stream_state state) {
    switch (state) {
    case STREAM_OPEN:
    case STREAM_POSTPONED:
        return CLOSE_NONE;
    case STREAM_NOT_THIS_PROTOCOL:
        return CLOSE_NOT_THIS_PROTOCOL;
    case STREAM_BROKEN:
        return CLOSE_PARSE_ERROR;
    case STREAM_VIOLATION:
        return CLOSE_VIOLATION;
    case STREAM_CLOSED_BY_DEVICE:
        return CLOSE_BY_DEVICE;
    case STREAM_REFUSED:
        return CLOSE_REJECTED;
    }
    return CLOSE_PARSE_ERROR;
}

// A datagram that could not be read to its end is not acknowledged.
static void settle_replies(struct peer *peer, size_t taken) {
    bool broken = peer->close_code == CLOSE_PARSE_ERROR || peer->close_code == CLOSE_NOT_THIS_PROTOCOL;
    if (peer->transport->is_udp && broken)
        peer_drop_unsettled(peer);
    else
        peer_settle_replies(peer, taken);
}

enum close_code conversation_take(struct peer *peer, const uint8_t *bytes, size_t length,
                                  enum codec_follow follow) {
    peer->received += length;
    peer->datagrams += peer->transport->is_udp;
    if (length > 0)
        peer->last_heard = uv_now(peer->parts->loop);
    peer->stream.setting.now = clock_now();
    uint64_t faults = peer->stream.faults;
    remember_beginning(peer, bytes, length);
    tap_received(peer, bytes, length);
    enum stream_state state = stream_feed(&peer->stream, bytes, length, follow);
    tap_taken(peer);
    if (peer->stream.faults != faults)
        tell_foreign(peer);
    if (peer->places != NULL || peer->foreign)
        forget_beginning(peer);
    if (peer->close_code == CLOSE_NONE)
        peer->close_code = code_of(state);
    if (peer->close_code == CLOSE_NONE && peer->places == NULL)
        peer->close_code = peer->refusal;
    settle_replies(peer, length);
    // A report without a terminator is taken at the silence after it.
    bool talks = length > 0 || follow == CODEC_QUIET;
    // A new connection begins without the codec's belief that it has passed on what the broker refused.
    if (peer->close_code == CLOSE_NONE && talks && peer->refused && !peer->transport->is_udp)
        peer->close_code = CLOSE_LIMIT;
    if (peer->close_code == CLOSE_NONE && talks) {
        session_note_heard(peer);
        session_tell_heard(peer);
    }
    return peer->close_code;
}

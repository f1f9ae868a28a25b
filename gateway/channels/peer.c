// What TCP connections and UDP addresses have in common; see peer.h.
#include "gateway/channels/peer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/channels/event.h"
#include "gateway/channels/message_stamp.h"
#include "gateway/run/gateway.h"

#define QUOTE_MAX 160 // of bytes in a log line
#define TOPIC_MAX 512 // mqtt.topic_prefix has at most 128

struct pending_reply {
    struct outbox_waiter waiter; // first, so that the one is the other
    struct peer *peer;
    struct pending_reply *prev, *next;
    size_t length;
    uint8_t bytes[];
};

const char *close_code_text(enum close_code code) {
    switch (code) {
    case CLOSE_NONE:
        return "open";
    case CLOSE_BY_DEVICE:
        return "closed by the device";
    case CLOSE_VIOLATION:
        return "protocol violated";
    case CLOSE_PARSE_ERROR:
        return "cannot be read any further";
    case CLOSE_RESTART:
        return "the gateway stops";
    case CLOSE_SAME_IDENT:
        return "the same device connected again";
    case CLOSE_REJECTED:
        return "device not allowed";
    case CLOSE_INACTIVE:
        return "silent for too long";
    case CLOSE_NOT_THIS_PROTOCOL:
        return "not this protocol";
    case CLOSE_LIMIT:
        return "limit reached";
    }
    return "?";
}

const char *peer_ident(const struct peer *peer) {
    return peer->session != NULL ? peer->session->ident : "-";
}

static void log_line(const struct peer *peer, enum log_level level, unsigned suppressed, const char *format,
                     va_list arguments) {
    char *text, note[LIMITER_NOTE_MAX];
    if (vasprintf(&text, format, arguments) < 0)
        must_have(NULL);
    log_at(level, "channel %s, %s, device %s: %s%s", peer->channel->config->name, peer->address,
           peer_ident(peer), text, limiter_note(suppressed, note));
    free(text);
}

void peer_log(const struct peer *peer, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    log_line(peer, LOG_INFO, 0, format, arguments);
    va_end(arguments);
}

bool peer_may_tell(const struct peer *peer, const char *kind, unsigned *suppressed) {
    struct gateway *gateway = peer->gateway;
    struct {
        const char *kind;
        unsigned char ip[16];
    } source = {.kind = kind};
    memcpy(source.ip, peer->ip, sizeof source.ip);
    return limiter_allows(&gateway->log_limiter, uv_now(&gateway->loop), &source, sizeof source, suppressed);
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
    outbox_when_safe(peer->gateway->outbox, &reply->waiter);
}

static void on_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
    struct peer *peer = context;
    if (peer->close_code != CLOSE_NONE)
        return;
    if (when == CODEC_NOW)
        peer->transport->send(peer, bytes, length);
    else
        peer_send_when_safe(peer, bytes, length);
}

// --- who it is ---

// Warns of a fault that is not one of bytes, and publishes it.
static void report(const struct peer *peer, const char *kind, const char *verdict, const char *text) {
    struct event_error error = {.code = EVENT_CHANNEL_ERROR, .text = text, .verdict = verdict};
    if (peer_warn(peer, kind, &error.suppressed, "%s", text))
        event_error(peer, &error);
}

static void on_identify(void *context, const char *ident) {
    struct peer *peer = context;
    char text[160];
    if (peer->close_code != CLOSE_NONE || strcmp(peer_ident(peer), ident) == 0)
        return;
    if (!device_ident_valid(ident)) {
        snprintf(text, sizeof text,
                 "an ident that is none: 1 to %d letters, digits, dots, dashes, underscores",
                 CODEC_IDENT_MAX);
        report(peer, "ident", "BAD_VALUE", text);
        peer->close_code = CLOSE_VIOLATION;
        return;
    }
    struct device device = registry_device(peer->gateway->registry, ident);
    if (!device.allowed) {
        snprintf(text, sizeof text, "device %s is not in the registry and unknown devices are rejected",
                 ident);
        free(peer->turned_away);
        peer->turned_away = must_have(strdup(ident));
        report(peer, "rejected", "REJECTED", text);
        peer->close_code = CLOSE_REJECTED;
        return;
    }
    if (peer->transport->is_udp && peer->session == NULL)
        event_accepted(peer, 0); // an address counts as a connection once it has said who it is
    session_attach(peer->gateway, peer, ident, &device);
    event_identified(peer);
    peer_log(peer, "is device %s", ident);
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
                  (unsigned long long)peer->channel->counters.removed_values))
        event_error(peer, &error);
}

static void log_removed(const struct peer *peer, const struct message *message) {
    for (size_t i = 0; i < message->removed_count && i < MESSAGE_REMOVED_MAX; i++) {
        const struct message_removed *removed = &message->removed[i];
        if (removed->reason == message_absent)
            log_debug("channel %s, %s, device %s: no %s in the report", peer->channel->config->name,
                      peer->address, peer_ident(peer), field_table[removed->field].name);
        else
            report_removed(peer, removed);
    }
}

static void put_message(struct peer *peer, const char *topic, const char *json, size_t length) {
    uint64_t number = outbox_put(
        peer->gateway->outbox,
        &(struct mqtt_publish){
            .topic = topic, .payload = json, .length = length, .qos = peer->gateway->config->mqtt.qos});
    if (peer->first_number == 0)
        peer->first_number = number;
    peer->last_number = number;
}

// {prefix}{middle}{id}; returns its end. Not by printf, as this is done for every message.
static char *put_topic(char topic[TOPIC_MAX], const struct config *config, const char *middle, int64_t id) {
    char *end = stpcpy(stpcpy(topic, config->mqtt.topic_prefix), middle);
    return end + decimal_write(decimal_integer(id), end);
}

static void on_message(void *context, struct message *message) {
    static char json[MESSAGE_JSON_MAX];
    static struct message_member members[MESSAGE_VALUES_MAX];
    size_t member_count;
    struct peer *peer = context;
    if (peer->close_code != CLOSE_NONE || peer->session == NULL)
        return;
    const struct config *config = peer->gateway->config;
    const struct device *device = &peer->session->device;
    char topic[TOPIC_MAX];
    peer->messages++;
    log_removed(peer, message);
    int64_t now = gateway_clock();
    message_stamp(message, &(struct message_origin){.codec = peer->channel->config->codec,
                                                    .received = now,
                                                    .channel_id = peer->channel->config->id,
                                                    .peer = peer->address,
                                                    .device = device});
    size_t length = message_write_members(message, json, sizeof json, members, &member_count);
    if (config->on_channels || !device->known) {
        char *end = put_topic(topic, config, "/message/gw/channels/", peer->channel->config->id);
        stpcpy(stpcpy(end, "/"), peer->session->ident);
        put_message(peer, topic, json, length);
    }
    if (config->on_devices && device->known) {
        put_topic(topic, config, "/message/gw/devices/", device->id);
        put_message(peer, topic, json, length);
    }
    channel_acknowledge_datagram(peer, message);
    device_state_report(peer->gateway, peer->session, members, member_count,
                        (int64_t)(decimal_to_double(message_get(message, FIELD_TIMESTAMP)->number) * 1e6),
                        now);
}

static void report_unidentified(const struct peer *peer, const struct codec_answer *answer) {
    char text[160];
    snprintf(text, sizeof text, "NOT_IDENTIFIED: an answer to '%s' from a device that has not said who it is",
             answer->key);
    report(peer, "not identified", codec_verdict_name(CODEC_NOT_IDENTIFIED), text);
}

static void on_answer(void *context, const struct codec_answer *answer) {
    struct peer *peer = context;
    if (peer->close_code != CLOSE_NONE)
        return;
    if (peer->session != NULL)
        commands_answered(peer, answer);
    else if (!answer->implicit)
        report_unidentified(peer, answer);
}

static void on_fault(void *context, const struct stream_fault *fault) {
    struct peer *peer = context;
    const struct stream_counters *counters = &peer->channel->counters;
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

static const struct stream_sink sink = {
    .identify = on_identify,
    .message = on_message,
    .reply = on_reply,
    .answer = on_answer,
    .fault = on_fault,
};

// --- beginning, taking, ending ---

void peer_init(struct peer *peer, struct gateway *gateway, struct channel *channel,
               const struct peer_transport *transport, const struct sockaddr *address) {
    const struct codec *codec = channel->config->codec;
    void *session = must_have(calloc(1, codec->session_size));
    peer->gateway = gateway;
    peer->channel = channel;
    peer->transport = transport;
    peer->opened = peer->last_heard = uv_now(&gateway->loop);
    peer->serial = ++gateway->last_serial;
    memcpy(peer->ip, address_key_of(address).ip, sizeof peer->ip);
    address_write(address, peer->address);
    stream_init(&peer->stream, codec, session, &sink, peer, &channel->counters);
}

void peer_release(struct peer *peer) {
    struct pending_reply *reply, *next;
    DL_FOREACH_SAFE(peer->replies, reply, next) {
        outbox_forget(peer->gateway->outbox, &reply->waiter);
        free(reply);
    }
    peer->replies = NULL;
    session_detach(peer->gateway, peer);
    stream_free(&peer->stream);
    free(peer->turned_away);
    free(peer->stream.session);
    peer->stream.session = NULL;
}

static enum close_code code_of(enum stream_state state) {
    switch (state) {
    case STREAM_OPEN:
        return CLOSE_NONE;
    case STREAM_NOT_THIS_PROTOCOL:
        return CLOSE_NOT_THIS_PROTOCOL;
    case STREAM_BROKEN:
        return CLOSE_PARSE_ERROR;
    case STREAM_VIOLATION:
        return CLOSE_VIOLATION;
    case STREAM_CLOSED_BY_DEVICE:
        return CLOSE_BY_DEVICE;
    }
    return CLOSE_PARSE_ERROR;
}

enum close_code peer_take(struct peer *peer, const uint8_t *bytes, size_t length, enum codec_follow follow) {
    peer->received += length;
    if (length > 0)
        peer->last_heard = uv_now(&peer->gateway->loop);
    enum stream_state state = stream_feed(&peer->stream, bytes, length, follow);
    if (peer->close_code == CLOSE_NONE)
        peer->close_code = code_of(state);
    // The codec believes that it has passed on what the broker refused. A new connection begins without that
    // belief.
    if (peer->close_code == CLOSE_NONE && peer->refused)
        peer->close_code = CLOSE_LIMIT;
    // A report without a terminator is taken at the silence after it.
    bool talks = length > 0 || follow == CODEC_QUIET;
    if (peer->close_code == CLOSE_NONE && peer->session != NULL && talks)
        commands_device_talks(peer->gateway, peer->session);
    return peer->close_code;
}

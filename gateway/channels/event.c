// Log entries; see event.h.
#include "gateway/channels/event.h"

#include <math.h>

#include "gateway/base/clock.h"
#include "gateway/base/hex.h"

#define PACKET_MAX 256 // bytes of a packet that an entry shows

// What all entries have.
static json_t *make_entry(const struct peer *peer, enum event_code code) {
    json_t *entry = json_pack("{s:i, s:f, s:I, s:s, s:s, s:s}", "event_code", (int)code, "timestamp",
                              (double)clock_now() / 1e6, "channel_id", (json_int_t)peer->channel->id,
                              "source", peer->address, "transport", peer->transport->is_udp ? "udp" : "tcp",
                              "instance", bus_client_id(peer->parts->bus));
    const char *ident = peer->ident != NULL ? peer->ident : peer->turned_away;
    if (ident != NULL)
        json_object_set_new(entry, "ident", json_string(ident));
    if (peer->device != NULL && peer->device->known)
        json_object_set_new(entry, "device_id", json_integer((json_int_t)peer->device->id));
    return entry;
}

static void publish_connection(const struct peer *peer, json_t *entry, const char *event) {
    bus_publish(peer->parts->bus, entry, MQTT_NOT_RETAINED,
                TOPIC_LOG TOPIC_CHANNELS "%lld" TOPIC_CONNECTIONS "%llu/%s", (long long)peer->channel->id,
                (unsigned long long)peer->serial, event);
    json_decref(entry);
}

static void add_suppressed(json_t *entry, unsigned suppressed) {
    if (suppressed > 0)
        json_object_set_new(entry, "suppressed", json_integer(suppressed));
}

void event_accepted(const struct peer *peer, unsigned suppressed) {
    json_t *entry = make_entry(peer, EVENT_ACCEPTED);
    add_suppressed(entry, suppressed);
    publish_connection(peer, entry, "accepted");
}

void event_identified(const struct peer *peer) {
    publish_connection(peer, make_entry(peer, EVENT_IDENTIFIED), "identified");
}

void event_closed(const struct peer *peer, enum close_code code) {
    json_t *entry = make_entry(peer, EVENT_CLOSED);
    json_object_set_new(entry, "close_code", json_integer(code));
    if (peer->loss != NULL)
        json_object_set_new(entry, "error_text", json_string(peer->loss));
    json_object_set_new(entry, "duration",
                        json_real((double)(uv_now(peer->parts->loop) - peer->opened) / 1000));
    json_object_set_new(entry, "recv", json_integer((json_int_t)peer->received));
    json_object_set_new(entry, "send", json_integer((json_int_t)peer->sent));
    json_object_set_new(entry, "msgs", json_integer((json_int_t)peer->messages));
    publish_connection(peer, entry, "closed");
}

int64_t event_timestamp(const json_t *entry) {
    double seconds = json_number_value(json_object_get(entry, "timestamp"));
    return seconds > 0 && seconds < 1e12 ? llround(seconds * 1e6) : 0;
}

struct said event_presence(const struct peer *peer, const char *ident, const struct device *device,
                           bool connected) {
    if (!device->known)
        return (struct said){0};
    json_t *entry = make_entry(peer, connected ? EVENT_CONNECTED : EVENT_DISCONNECTED);
    json_object_set_new(entry, "ident", json_string(ident));
    json_object_set_new(entry, "device_id", json_integer((json_int_t)device->id));
    if (connected && !bus_keeps_up(peer->parts->bus))
        json_object_set_new(entry, "late", json_true());
    struct said said = {.timestamp = event_timestamp(entry)};
    said.number = bus_publish(peer->parts->bus, entry, MQTT_NOT_RETAINED, TOPIC_LOG TOPIC_DEVICES "%lld%s",
                              (long long)device->id, connected ? TOPIC_CONNECTED : TOPIC_DISCONNECTED);
    json_decref(entry);
    return said;
}

void event_takeover(const struct peer *peer, const char *ident, const struct device *device,
                    const char *other) {
    if (!device->known)
        return;
    json_t *entry = make_entry(peer, EVENT_TAKEOVER);
    json_object_set_new(entry, "ident", json_string(ident));
    json_object_set_new(entry, "device_id", json_integer((json_int_t)device->id));
    json_object_set_new(entry, "from", json_string(other));
    bus_publish(peer->parts->bus, entry, MQTT_NOT_RETAINED, TOPIC_LOG TOPIC_DEVICES "%lld/takeover",
                (long long)device->id);
    json_decref(entry);
}

static json_t *packet_of(const uint8_t *bytes, size_t length) {
    char text[2 * PACKET_MAX + 1];
    return json_string(hex_write(bytes, length < PACKET_MAX ? length : PACKET_MAX, text));
}

void event_error(const struct peer *peer, const struct event_error *error) {
    json_t *entry = make_entry(peer, error->code);
    json_object_set_new(entry, "error_text", json_string(error->text));
    json_object_set_new(entry, "verdict", json_string(error->verdict));
    if (error->has_offset)
        json_object_set_new(entry, "offset", json_integer((json_int_t)error->offset));
    if (error->bytes != NULL)
        json_object_set_new(entry, "packet", packet_of(error->bytes, error->length));
    if (error->bytes != NULL && error->length > PACKET_MAX)
        json_object_set_new(entry, "packet_length", json_integer((json_int_t)error->length));
    add_suppressed(entry, error->suppressed);
    bus_publish(peer->parts->bus, entry, MQTT_NOT_RETAINED, TOPIC_LOG TOPIC_CHANNELS "%lld" TOPIC_ERROR,
                (long long)peer->channel->id);
    json_decref(entry);
}

// Log entries; see event.h.
#include "gateway/channels/event.h"

#include "gateway/base/memory.h"
#include "gateway/run/gateway.h"

#define PACKET_MAX 256 // bytes of a packet that an entry shows

// What all entries have.
static json_t *make_entry(const struct peer *peer, enum event_code code) {
    const struct session *session = peer->session;
    json_t *entry = json_pack(
        "{s:i, s:f, s:I, s:s, s:s, s:s}", "event_code", (int)code, "timestamp", (double)gateway_clock() / 1e6,
        "channel_id", (json_int_t)peer->channel->config->id, "source", peer->address, "transport",
        peer->transport->is_udp ? "udp" : "tcp", "instance", peer->gateway->config->mqtt.client_id);
    const char *ident = session != NULL ? session->ident : peer->turned_away;
    if (ident != NULL)
        json_object_set_new(entry, "ident", json_string(ident));
    if (session != NULL && session->device.known)
        json_object_set_new(entry, "device_id", json_integer((json_int_t)session->device.id));
    return entry;
}

static void publish_connection(const struct peer *peer, json_t *entry, const char *event) {
    gateway_publish(peer->gateway, entry, MQTT_NOT_RETAINED, "log/gw/channels/%lld/connections/%llu/%s",
                    (long long)peer->channel->config->id, (unsigned long long)peer->serial, event);
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
    json_object_set_new(entry, "duration",
                        json_real((double)(uv_now(&peer->gateway->loop) - peer->opened) / 1000));
    json_object_set_new(entry, "recv", json_integer((json_int_t)peer->received));
    json_object_set_new(entry, "send", json_integer((json_int_t)peer->sent));
    json_object_set_new(entry, "msgs", json_integer((json_int_t)peer->messages));
    publish_connection(peer, entry, "closed");
}

void event_presence(const struct session *session, const struct peer *peer, bool connected) {
    if (!session->device.known)
        return;
    json_t *entry = make_entry(peer, connected ? EVENT_CONNECTED : EVENT_DISCONNECTED);
    json_object_set_new(entry, "ident", json_string(session->ident));
    json_object_set_new(entry, "device_id", json_integer((json_int_t)session->device.id));
    gateway_publish(peer->gateway, entry, MQTT_NOT_RETAINED, "log/gw/devices/%lld/%s",
                    (long long)session->device.id, connected ? "connected" : "disconnected");
    json_decref(entry);
}

static json_t *hexadecimal(const uint8_t *bytes, size_t length) {
    static const char digits[] = "0123456789abcdef";
    char text[2 * PACKET_MAX + 1];
    if (length > PACKET_MAX)
        length = PACKET_MAX;
    for (size_t i = 0; i < length; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * length] = '\0';
    return json_string(text);
}

void event_error(const struct peer *peer, const struct event_error *error) {
    json_t *entry = make_entry(peer, error->code);
    json_object_set_new(entry, "error_text", json_string(error->text));
    json_object_set_new(entry, "verdict", json_string(error->verdict));
    if (error->has_offset)
        json_object_set_new(entry, "offset", json_integer((json_int_t)error->offset));
    if (error->bytes != NULL)
        json_object_set_new(entry, "packet", hexadecimal(error->bytes, error->length));
    if (error->bytes != NULL && error->length > PACKET_MAX)
        json_object_set_new(entry, "packet_length", json_integer((json_int_t)error->length));
    add_suppressed(entry, error->suppressed);
    gateway_publish(peer->gateway, entry, MQTT_NOT_RETAINED, "log/gw/channels/%lld/error",
                    (long long)peer->channel->config->id);
    json_decref(entry);
}

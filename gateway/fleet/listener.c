// What comes from the broker, as what is known of the fleet; see listener.h.
#include "gateway/fleet/listener.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/hash.h"
#include "gateway/base/libmosquitto.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/bus.h"
#include "gateway/broker/topic.h"

#define TWINS 4096 // messages that may wait for their twin on the other kind of topic

// What is retained for each device, after state/gw/devices/+. Identities come first.
static const char *const states[] = {"",
                                     TOPIC_ACTIVE,
                                     TOPIC_TELEMETRY "server.timestamp",
                                     TOPIC_CONNECTED,
                                     TOPIC_TELEMETRY TOPIC_POSITION,
                                     TOPIC_TELEMETRY "battery.voltage"};
#define STATES (sizeof states / sizeof states[0])

enum topic_kind { ON_CHANNELS = 1, ON_DEVICES = 2 };

struct listener {
    const struct config *config;
    const char *device; // the only one that is wanted: its ident, id or name; or NULL
    struct listener_handlers handlers;
    struct fleet fleet;
    struct mqtt_subscription subscriptions[LISTENER_SUBSCRIPTIONS_MAX];
    size_t subscription_count;
    char *state_filters[STATES];
    size_t states_asked; // how many of them
    int64_t now;         // of what is being taken
    struct {
        uint64_t hash;
        enum topic_kind kind; // 0: none waits here
    } twins[TWINS];
};

// --- messages and log entries ---

static void note_odd(struct listener *listener, const struct mqtt_received *received) {
    listener->handlers.not_understood(listener->handlers.context, received);
}

// Whether the same payload came on the other kind of topic just before: a message is published on both.
static bool is_twin(struct listener *listener, enum topic_kind kind, const struct mqtt_received *received) {
    uint64_t hash = hash_fnv1a(received->payload, received->length);
    enum topic_kind *waiting = &listener->twins[hash % TWINS].kind;
    bool twin = *waiting != 0 && *waiting != kind && listener->twins[hash % TWINS].hash == hash;
    *waiting = twin ? 0 : kind;
    listener->twins[hash % TWINS].hash = hash;
    return twin;
}

// Log entries do not say the name: by then the fleet knows the device.
static bool is_wanted(const struct listener *listener, const struct report *report) {
    const char *device = listener->device;
    char id[24];
    snprintf(id, sizeof id, "%lld", (long long)report->id);
    return device == NULL || strcmp(device, report->ident) == 0 || strcmp(device, report->name) == 0 ||
           (report->id >= 0 && strcmp(device, id) == 0) ||
           fleet_by_ident(&listener->fleet, report->ident) != NULL;
}

static void take_message(struct listener *listener, enum topic_kind kind,
                         const struct mqtt_received *received) {
    struct report report;
    if (is_twin(listener, kind, received))
        return;
    if (!report_message(&report, received->payload, received->length, listener->now)) {
        note_odd(listener, received);
        return;
    }
    if (!is_wanted(listener, &report))
        return;
    fleet_report(&listener->fleet, &report);
    listener->handlers.message(listener->handlers.context, &report);
}

static void take_presence(struct listener *listener, bool connected, const struct mqtt_received *received) {
    struct presence presence;
    if (!report_presence(&presence, connected, received->payload, received->length, listener->now)) {
        note_odd(listener, received);
        return;
    }
    if (!is_wanted(listener, &presence.report))
        return;
    fleet_presence(&listener->fleet, &presence);
    const struct fleet_device *device = fleet_by_ident(&listener->fleet, presence.report.ident);
    strcpy(presence.report.name, device->name); // which the entry does not say
    listener->handlers.presence(listener->handlers.context, &presence.report);
}

// --- states ---

static void take_identity(struct listener *listener, int64_t id, const struct mqtt_received *received) {
    struct report identity;
    if (received->length == 0)
        fleet_identity(&listener->fleet, id, NULL);
    else if (!report_identity(&identity, received->payload, received->length) || identity.id != id)
        note_odd(listener, received);
    else if (is_wanted(listener, &identity))
        fleet_identity(&listener->fleet, id, &identity);
}

static bool says(const struct mqtt_received *received, const char *text) {
    return received->length == strlen(text) && memcmp(received->payload, text, received->length) == 0;
}

static void take_connected(struct listener *listener, int64_t id, const struct mqtt_received *received) {
    if (received->length == 0)
        fleet_connected(&listener->fleet, id, FLEET_UNKNOWN);
    else if (says(received, "true"))
        fleet_connected(&listener->fleet, id, FLEET_CONNECTED);
    else if (says(received, "false"))
        fleet_connected(&listener->fleet, id, FLEET_DISCONNECTED);
    else
        note_odd(listener, received);
}

static void take_position(struct listener *listener, int64_t id, const struct mqtt_received *received) {
    struct report position;
    if (report_position(&position, received->payload, received->length))
        fleet_position(&listener->fleet, id, &position);
    else
        note_odd(listener, received);
}

static void take_heard(struct listener *listener, int64_t id, const struct mqtt_received *received) {
    double heard = report_number(FIELD_SERVER_TIMESTAMP, received->payload, received->length) * 1e6;
    if (heard <= (double)listener->now)
        fleet_heard(&listener->fleet, id, (int64_t)heard);
}

// What is known of a device before its messages say it.
static void take_telemetry(struct listener *listener, int64_t id, const char *name,
                           const struct mqtt_received *received) {
    const struct fleet_device *device = fleet_by_id(&listener->fleet, id);
    if (received->length == 0 || (device != NULL && device->live))
        return;
    if (strcmp(name, "position") == 0)
        take_position(listener, id, received);
    else if (strcmp(name, field_table[FIELD_BATTERY_VOLTAGE].key) == 0)
        fleet_battery(&listener->fleet, id,
                      report_number(FIELD_BATTERY_VOLTAGE, received->payload, received->length));
    else
        take_heard(listener, id, received);
}

// topic is what follows state/gw/devices/.
static void take_state(struct listener *listener, const char *topic, const struct mqtt_received *received) {
    char *end;
    errno = 0;
    long long id = strtoll(topic, &end, 10);
    if (end == topic || *topic == '-' || errno != 0 || (*end != '\0' && *end != '/')) {
        note_odd(listener, received);
        return;
    }
    if (*end == '\0')
        take_identity(listener, id, received);
    else if (listener->device != NULL && fleet_by_id(&listener->fleet, id) == NULL)
        return; // identities come first: it is another device's
    else if (strcmp(end, TOPIC_CONNECTED) == 0)
        take_connected(listener, id, received);
    else if (strcmp(end, TOPIC_ACTIVE) == 0)
        take_heard(listener, id, received);
    else
        take_telemetry(listener, id, strrchr(end, '/') + 1, received);
}

bool listener_take(struct listener *listener, const struct mqtt_received *received, int64_t now) {
    const char *topic = received->topic + strlen(listener->config->mqtt.topic_prefix) + 1; // as subscribed
    const char *state = topic_after(topic, TOPIC_STATE TOPIC_DEVICES);
    const char *entry = topic_after(topic, TOPIC_LOG TOPIC_DEVICES);
    listener->now = now;
    if (state != NULL)
        take_state(listener, state, received);
    else if (entry != NULL)
        take_presence(listener, strcmp(strchrnul(entry, '/'), TOPIC_CONNECTED) == 0, received);
    else if (topic_after(topic, TOPIC_MESSAGE TOPIC_CHANNELS) != NULL)
        take_message(listener, ON_CHANNELS, received);
    else
        take_message(listener, ON_DEVICES, received);
    return state != NULL && received->retain;
}

// --- what to ask the broker for ---

static void subscribe(struct listener *listener, const char *topic, const char *last) {
    struct mqtt_subscription *subscription = &listener->subscriptions[listener->subscription_count++];
    *subscription = (struct mqtt_subscription){
        .filter = text_format("%s/%s%s", listener->config->mqtt.topic_prefix, topic, last),
        .options = MQTT_SUB_OPT_SEND_RETAIN_NEVER};
}

static void subscribe_all(struct listener *listener) {
    const struct config *config = listener->config;
    subscribe(listener, TOPIC_LOG TOPIC_DEVICES "+", TOPIC_CONNECTED);
    subscribe(listener, TOPIC_LOG TOPIC_DEVICES "+", TOPIC_DISCONNECTED);
    // A device without an identity is on the channel's topic in any case.
    if (config->on_channels || config->unknown_devices == UNKNOWN_CHANNEL)
        subscribe(listener, TOPIC_MESSAGE TOPIC_CHANNELS "+/+", "");
    if (config->on_devices)
        subscribe(listener, TOPIC_MESSAGE TOPIC_DEVICES "+", "");
    for (size_t i = 0; i < STATES; i++)
        listener->state_filters[i] =
            text_format("%s/" TOPIC_STATE TOPIC_DEVICES "+%s", config->mqtt.topic_prefix, states[i]);
}

const struct mqtt_subscription *listener_subscriptions(const struct listener *listener, size_t *count) {
    *count = listener->subscription_count;
    return listener->subscriptions;
}

const char *listener_states(const struct listener *listener) {
    return listener->states_asked < STATES ? listener->state_filters[listener->states_asked] : NULL;
}

void listener_states_asked(struct listener *listener) {
    listener->states_asked++;
}

void listener_lost(struct listener *listener) {
    listener->states_asked = 0;
    fleet_lost(&listener->fleet);
}

// --- the whole ---

struct listener *listener_new(const struct config *config, const char *device,
                              const struct listener_handlers *handlers) {
    struct listener *listener = must_have(calloc(1, sizeof *listener));
    listener->config = config;
    listener->device = device;
    listener->handlers = *handlers;
    subscribe_all(listener);
    return listener;
}

void listener_free(struct listener *listener) {
    for (size_t i = 0; i < listener->subscription_count; i++)
        free(listener->subscriptions[i].filter);
    for (size_t i = 0; i < STATES; i++)
        free(listener->state_filters[i]);
    fleet_free(&listener->fleet);
    free(listener);
}

struct fleet *listener_fleet(struct listener *listener) {
    return &listener->fleet;
}

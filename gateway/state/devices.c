// What is retained for each device; see devices.h.
#include "gateway/state/devices.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/channels/event.h"
#include "gateway/state/position.h"
#include "gateway/state/set_back.h"
#include "gateway/state/values.h"

// Devices outside the registry; beyond that the one heard longest ago is forgotten.
#define UNLISTED_MAX 200000
// States that are looked at to find one to forget.
#define PASSED_MAX 100

// Parts of a device's state that can be due.
enum device_state_part {
    STATE_IDENTITY = 1,
    STATE_CONNECTED = 2,
    STATE_VALUES = 4,    // those that are marked
    STATE_DISCOVERY = 8, // for Home Assistant
    STATE_ALL = 15,
};

struct device_state {
    int64_t id;
    char ident[CODEC_IDENT_MAX + 1];
    char *name;
    int64_t type_id;
    const struct codec *codec; // NULL until it was heard
    bool listed;               // in the registry
    bool connected;            // here, or when another gateway has it, there
    int64_t since;             // no report from before it counts (high-water mark): microseconds since 1970
    struct set_back clock;     // the device's
    bool confirmed;            // the broker has said what it retains as "connected"
    bool elsewhere;            // another gateway had it last, and announces it
    uint8_t due;               // of enum device_state_part
    struct values values;
    uint32_t reported; // Home Assistant's entities that have a value
    struct home_assistant_announced announced;
    struct device_state *prev, *next;
    struct device_state *prev_due, *next_due;
    UT_hash_handle hh; // by id
};

struct devices {
    struct devices_parts parts;
    struct device_state *by_id;
    struct device_state *by_age; // in the order in which they were heard, the last at the end (LRU)
    struct device_state *due;    // those with something to publish, the longest first
    size_t unlisted;             // states of devices outside the registry
};

// --- the table ---

static struct device_state *find(const struct devices *devices, int64_t id) {
    struct device_state *state;
    HASH_FIND(hh, devices->by_id, &id, sizeof id, state);
    return state;
}

static void mark_due(struct devices *devices, struct device_state *state, unsigned parts) {
    if (!devices->parts.config->home_assistant.enabled)
        parts &= ~(unsigned)STATE_DISCOVERY;
    if (parts == 0)
        return;
    if (state->due == 0)
        DL_APPEND2(devices->due, state, prev_due, next_due);
    state->due |= (uint8_t)parts;
    publisher_wake(devices->parts.publisher);
}

// What was announced is no longer right.
static void announce_anew(struct devices *devices, struct device_state *state) {
    state->announced = (struct home_assistant_announced){0};
    mark_due(devices, state, STATE_DISCOVERY);
}

static void forget(struct devices *devices, struct device_state *state) {
    if (state->due != 0)
        DL_DELETE2(devices->due, state, prev_due, next_due);
    devices->unlisted -= !state->listed;
    DL_DELETE(devices->by_age, state);
    HASH_DEL(devices->by_id, state);
    free(state->name);
    values_free(&state->values);
    free(state);
}

// Keeps the table bounded, whatever idents come in. Those that may not be forgotten go to the end, so that
// the next one does not pass them again; how many it passes is bounded as well.
static void make_room(struct devices *devices) {
    for (unsigned passed = 0; passed < PASSED_MAX && devices->unlisted >= UNLISTED_MAX; passed++) {
        struct device_state *state = devices->by_age;
        if (!state->listed && !state->connected) {
            forget(devices, state);
            continue;
        }
        DL_DELETE(devices->by_age, state);
        DL_APPEND(devices->by_age, state);
    }
}

static struct device_state *find_or_make(struct devices *devices, int64_t id, const char *ident) {
    struct device_state *state = find(devices, id);
    if (state != NULL)
        return state;
    make_room(devices);
    state = must_have(calloc(1, sizeof *state));
    state->id = id;
    snprintf(state->ident, sizeof state->ident, "%s", ident);
    HASH_ADD(hh, devices->by_id, id, sizeof state->id, state);
    DL_APPEND(devices->by_age, state);
    devices->unlisted++;
    return state;
}

// --- values ---

static uint64_t publish_value(const struct devices *devices, int64_t id, enum field field, const char *index,
                              size_t index_length, const char *text, size_t length) {
    char topic[TOPIC_MAX];
    bus_topic(devices->parts.bus, topic, TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_TELEMETRY "%s%s%.*s",
              (long long)id, value_name(field), index_length > 0 ? "." : "", (int)index_length, index);
    return bus_publish_text(devices->parts.bus, topic, text, length, MQTT_RETAINED);
}

// What memory has no room for goes out each time, if the broker takes it now.
static void publish_at_once(const struct devices *devices, int64_t id, const struct message_member *member) {
    if (bus_keeps_up(devices->parts.bus))
        publish_value(devices, id, member->field, member->index, member->index_length, member->value,
                      member->length);
}

// A field that is not in memory may be one that was never there before.
static void note_field(struct devices *devices, struct device_state *state, enum field field) {
    uint32_t entity = home_assistant_entity_of(field);
    if ((entity & ~state->reported) == 0)
        return;
    state->reported |= entity;
    mark_due(devices, state, STATE_DISCOVERY);
}

static void take_value(struct devices *devices, struct device_state *state,
                       const struct message_member *member, int64_t timestamp, size_t *hint) {
    if (timestamp < state->since)
        return;
    struct value *value = values_find(&state->values, member, hint);
    if (value == NULL)
        note_field(devices, state, member->field);
    switch (values_put(&state->values, value, member, timestamp, hint)) {
    case VALUE_KEPT:
        break;
    case VALUE_CHANGED:
        mark_due(devices, state, STATE_VALUES);
        break;
    case VALUE_NO_ROOM:
        publish_at_once(devices, state->id, member);
        break;
    }
}

static struct value *value_of(const struct device_state *state, enum field field) {
    const struct message_member wanted = {.field = field, .index = ""};
    size_t hint = 0;
    return values_find(&state->values, &wanted, &hint);
}

static void merge_known(const struct device_state *state, struct position *position) {
    const struct value *known = value_of(state, FIELD_NONE);
    position_merge(position, known != NULL ? value_text(known) : NULL, known != NULL ? known->length : 0);
}

static void take_position(struct devices *devices, struct device_state *state,
                          const struct channel_report *report, int64_t timestamp) {
    struct position position;
    position_collect(&position, report->members, report->count);
    if (position.length == 0)
        return;
    if (!position.has_place)
        merge_known(state, &position);
    const struct message_member member = {
        .field = FIELD_NONE, .index = "", .value = position.text, .length = position.length};
    size_t hint = 0;
    take_value(devices, state, &member, timestamp, &hint);
}

// --- identity ---

// Telemetry has the identity too, as it was in the last message.
static void renew_value(struct devices *devices, struct device_state *state, enum field field,
                        json_t *value) {
    char *text = text_of_json(value, TEXT_VALUE_DIGITS);
    const struct message_member member = {.field = field, .index = "", .value = text, .length = strlen(text)};
    const struct value *known = value_of(state, field);
    size_t hint = 0;
    if (known != NULL)
        take_value(devices, state, &member, known->timestamp, &hint);
    free(text);
    json_decref(value);
}

// Takes over what the registry says. All of a device that is new, or has got another ident, is due.
static void identify(struct devices *devices, struct device_state *state, const struct device *device,
                     const char *ident) {
    bool same = state->name != NULL && strcmp(state->name, device->name) == 0 &&
                state->type_id == device->type_id && strcmp(state->ident, ident) == 0;
    devices->unlisted += state->listed - device->listed;
    state->listed = device->listed;
    if (same)
        return;
    snprintf(state->ident, sizeof state->ident, "%s", ident);
    free(state->name);
    state->name = must_have(strdup(device->name));
    state->type_id = device->type_id;
    announce_anew(devices, state);
    renew_value(devices, state, FIELD_DEVICE_ID, json_integer((json_int_t)state->id));
    renew_value(devices, state, FIELD_DEVICE_NAME, json_string(state->name));
    renew_value(devices, state, FIELD_DEVICE_TYPE_ID, json_integer((json_int_t)state->type_id));
    mark_due(devices, state, STATE_IDENTITY);
}

// --- publishing ---

static bool publish_values(struct devices *devices, struct device_state *state) {
    for (struct value *value = NULL; (value = values_next(&state->values, value)) != NULL;) {
        if (!value->due)
            continue;
        if (!bus_keeps_up(devices->parts.bus))
            return false;
        publish_value(devices, state->id, (enum field)value->field, value_index(value), value->index_length,
                      value_text(value), value->length);
        value->due = false;
    }
    return true;
}

static void publish_identity(struct devices *devices, const struct device_state *state) {
    json_t *protocol = state->codec != NULL ? json_integer((json_int_t)state->codec->id) : json_null();
    json_t *json =
        json_pack("{s:I, s:s, s:s, s:I, s:o}", "id", (json_int_t)state->id, "name", state->name, "ident",
                  state->ident, "device_type_id", (json_int_t)state->type_id, "protocol_id", protocol);
    bus_publish(devices->parts.bus, json, MQTT_RETAINED_SIGNED, TOPIC_STATE TOPIC_DEVICES "%lld",
                (long long)state->id);
    json_decref(json);
}

static void publish_connected(struct devices *devices, int64_t id, bool connected) {
    bus_publish(devices->parts.bus, connected ? json_true() : json_false(), MQTT_RETAINED_SIGNED,
                TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_CONNECTED, (long long)id);
}

// Several gateways on one broker would each announce a device with themselves as what it depends on, so only
// the one that had it last does. The broker says whether another had it.
static bool is_ours_to_announce(const struct device_state *state) {
    return (state->confirmed || state->connected) && !state->elsewhere;
}

// True when nothing is left to announce. What is not ours is due again when the device comes here, or when
// the broker has said.
static bool publish_discovery(const struct devices *devices, struct device_state *state) {
    if (!is_ours_to_announce(state))
        return true;
    struct home_assistant_device device = {.id = state->id,
                                           .ident = state->ident,
                                           .name = state->name,
                                           .codec = state->codec,
                                           .reported = state->reported,
                                           .announced = state->announced};
    bool all = home_assistant_announce(devices->parts.home_assistant, &device);
    state->announced = device.announced;
    return all;
}

// False when the broker does not keep up any more.
static bool publish_device(struct devices *devices, struct device_state *state) {
    unsigned due = state->due;
    if ((due & STATE_IDENTITY) != 0)
        publish_identity(devices, state);
    if ((due & STATE_CONNECTED) != 0)
        publish_connected(devices, state->id, state->connected);
    state->due &= (uint8_t) ~(STATE_IDENTITY | STATE_CONNECTED);
    if ((due & STATE_VALUES) != 0 && !publish_values(devices, state))
        return false;
    state->due &= (uint8_t)~STATE_VALUES;
    if ((due & STATE_DISCOVERY) != 0 && !publish_discovery(devices, state))
        return false;
    state->due = 0;
    DL_DELETE2(devices->due, state, prev_due, next_due);
    return true;
}

static bool publish_due(void *context) {
    struct devices *devices = context;
    // Otherwise clearing would remove what was published in its place.
    bool may = publisher_is_open(devices->parts.publisher) && clearing_is_clear(devices->parts.clearing);
    while (may && devices->due != NULL && bus_keeps_up(devices->parts.bus))
        if (!publish_device(devices, devices->due))
            break;
    return devices->due == NULL;
}

// --- what happens to devices ---

static void take_codec(struct devices *devices, struct device_state *state, const struct codec *codec) {
    if (state->codec == codec)
        return;
    state->codec = codec;
    mark_due(devices, state, STATE_IDENTITY);
    announce_anew(devices, state);
}

void devices_arrived(struct devices *devices, const struct session *session,
                     const struct config_channel *channel) {
    if (!session->device.known)
        return;
    struct device_state *state = find_or_make(devices, session->device.id, session->ident);
    identify(devices, state, &session->device, session->ident);
    take_codec(devices, state, channel->codec);
    if (state->elsewhere)
        announce_anew(devices, state);
    state->elsewhere = false;
    state->connected = true;
    mark_due(devices, state, STATE_CONNECTED);
}

static struct device_state *state_of(const struct devices *devices, const struct session *session) {
    return session->device.known ? find(devices, session->device.id) : NULL;
}

// When a device has gone to another gateway, that gateway says so itself.
void devices_left(struct devices *devices, const struct session *session) {
    struct device_state *state = state_of(devices, session);
    if (state == NULL || strcmp(state->ident, session->ident) != 0)
        return;
    state->elsewhere = session->elsewhere;
    if (session->elsewhere)
        return;
    state->connected = false;
    mark_due(devices, state, STATE_CONNECTED);
}

// What was shown until now is in clock, which has just been recognised.
static void tell_set_back(const struct device_state *state, const struct session *session, int64_t shown,
                          const struct channel_report *report) {
    char text[160];
    const struct peer *peer = session_any_peer(session);
    snprintf(text, sizeof text,
             "the device's clock was set back: its reports are %.0f s behind; its last values move again",
             (double)(shown - report->timestamp) / 1e6);
    log_warning("channel %s, %s, device %s: %s", peer->channel->name, peer->address, state->ident, text);
    event_error(peer,
                &(struct event_error){.code = EVENT_DEVICE_ERROR, .text = text, .verdict = "clock set back"});
}

// By which time a report is ordered among the device's.
static int64_t order_of(struct device_state *state, const struct session *session,
                        const struct channel_report *report) {
    bool recognised = state->clock.recognised;
    int64_t shown = state->clock.newest;
    int64_t at = set_back_order(&state->clock, report->timestamp, report->received);
    if (state->clock.recognised && !recognised)
        tell_set_back(state, session, shown, report);
    return at;
}

static void take_report(struct devices *devices, struct device_state *state, const struct session *session,
                        const struct channel_report *report) {
    enum config_telemetry wanted = devices->parts.config->telemetry;
    int64_t timestamp = order_of(state, session, report);
    size_t hint = 0;
    if (wanted == TELEMETRY_PARAMETERS)
        for (size_t i = 0; i < report->count; i++)
            take_value(devices, state, &report->members[i], timestamp, &hint);
    if (wanted != TELEMETRY_OFF)
        take_position(devices, state, report, timestamp);
}

void devices_reported(struct devices *devices, const struct session *session,
                      const struct channel_report *report) {
    struct device_state *state = state_of(devices, session);
    if (state == NULL)
        return;
    DL_DELETE(devices->by_age, state);
    DL_APPEND(devices->by_age, state);
    take_report(devices, state, session, report);
    publish_due(devices);
}

void devices_restore(struct devices *devices) {
    struct device_state *state;
    DL_FOREACH(devices->by_age, state) {
        values_mark(&state->values);
        mark_due(devices, state, STATE_ALL);
        announce_anew(devices, state);
    }
}

void devices_announce(struct devices *devices) {
    struct device_state *state;
    DL_FOREACH(devices->by_age, state) {
        announce_anew(devices, state);
    }
}

// --- what is removed ---

void devices_remove(struct devices *devices, int64_t id) {
    if (find(devices, id) == NULL) {
        bus_publish(devices->parts.bus, NULL, MQTT_RETAINED, TOPIC_STATE TOPIC_DEVICES "%lld", (long long)id);
        bus_publish(devices->parts.bus, NULL, MQTT_RETAINED, TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_CONNECTED,
                    (long long)id);
    }
    home_assistant_remove(devices->parts.home_assistant, id);
}

// --- the registry ---

// Makes or updates the state of a listed device. Whether it is connected is said once it is known that no
// other gateway has it.
static void take_listed(struct devices *devices, const struct config_device *listed) {
    struct device device = registry_device(devices->parts.registry, listed->ident);
    struct device_state *state = find_or_make(devices, device.id, listed->ident);
    identify(devices, state, &device, listed->ident);
}

static void take_registry(struct devices *devices) {
    const struct config_device *device;
    for (size_t i = 0; (device = registry_at(devices->parts.registry, i)) != NULL; i++)
        take_listed(devices, device);
}

// Gives a device the id that the registry has for it now, with its last values.
static void move(struct devices *devices, struct device_state *state) {
    struct device device = registry_device(devices->parts.registry, state->ident);
    struct device_state *there = find(devices, device.id);
    if (there != NULL)
        forget(devices, there);
    state->id = device.id;
    state->announced = (struct home_assistant_announced){0};
    free(state->name); // its identity is another one, whatever it is called
    state->name = NULL;
    HASH_ADD(hh, devices->by_id, id, sizeof state->id, state);
    values_mark(&state->values);
    mark_due(devices, state, STATE_ALL);
    identify(devices, state, &device, state->ident);
}

struct moved {
    int64_t from;
    struct device_state *state; // NULL: it is removed
};

// Whether the device of a state still has one, now that the registry says what device is.
static bool stays(const struct devices *devices, const struct device_state *state,
                  const struct device *device) {
    return device->known && (device->listed || !state->listed ||
                             session_by_ident(devices->parts.sessions, state->ident) != NULL);
}

static size_t collect_moved(struct devices *devices, struct moved *moved) {
    struct device_state *state, *next;
    size_t count = 0;
    DL_FOREACH_SAFE(devices->by_age, state, next) {
        struct device device = registry_device(devices->parts.registry, state->ident);
        bool here = stays(devices, state, &device);
        if (here && device.id == state->id) {
            identify(devices, state, &device, state->ident);
            continue;
        }
        moved[count++] = (struct moved){.from = state->id, .state = here ? state : NULL};
        if (here)
            HASH_DEL(devices->by_id, state); // ids may be exchanged: first all are taken out
        else
            forget(devices, state);
    }
    return count;
}

void devices_reload(struct devices *devices) {
    struct moved *moved = must_have(calloc(HASH_COUNT(devices->by_id) + 1, sizeof *moved));
    size_t count = collect_moved(devices, moved);
    for (size_t i = 0; i < count; i++)
        if (moved[i].state != NULL)
            move(devices, moved[i].state);
    take_registry(devices);
    for (size_t i = 0; i < count; i++)
        // Retained topics under the old id that the new holder does not have are removed.
        clearing_begin(devices->parts.clearing, moved[i].from);
    free(moved);
    if (publisher_is_open(devices->parts.publisher))
        devices_all_read(devices);
}

// --- what the broker has ---

// An identity that we published in an earlier run. What the registry says now may be another one.
static void hear_unknown(struct devices *devices, int64_t id, const char *ident, const struct codec *codec) {
    struct device device = registry_device(devices->parts.registry, ident);
    if (!device.known || device.id != id) {
        clearing_begin(devices->parts.clearing, id);
        return;
    }
    struct device_state *state = find_or_make(devices, id, ident);
    state->codec = codec;
    identify(devices, state, &device, ident);
}

// The id is that of a listed device: which protocol it has may be known from before; or it was another's.
static void hear_known(struct devices *devices, struct device_state *state, const char *ident,
                       const struct codec *codec, bool earlier) {
    bool same = strcmp(state->ident, ident) == 0;
    if (same && state->codec == NULL)
        take_codec(devices, state, codec);
    if (same || !earlier)
        return;
    clearing_begin(devices->parts.clearing, state->id);
    announce_anew(devices, state);
}

static void hear_identity(struct devices *devices, int64_t id, const struct mqtt_received *received,
                          bool own) {
    struct device_state *state = find(devices, id);
    json_t *json = json_loadb(received->payload, received->length, 0, NULL);
    const char *ident = json_string_value(json_object_get(json, "ident"));
    const struct codec *codec =
        codec_by_id((unsigned)json_integer_value(json_object_get(json, "protocol_id")));
    if (ident != NULL && device_ident_valid(ident) && state != NULL)
        hear_known(devices, state, ident, codec, received->retain && own);
    else if (ident != NULL && device_ident_valid(ident) && own)
        hear_unknown(devices, id, ident, codec);
    json_decref(json);
}

static bool is_true(const struct mqtt_received *received) {
    return received->length == 4 && memcmp(received->payload, "true", 4) == 0;
}

// The device is here and another gateway says that it is not; or we said in an earlier run that it is here.
static void hear_connected(struct devices *devices, int64_t id, const struct mqtt_received *received,
                           bool own) {
    struct device_state *state = find(devices, id);
    bool here = session_by_device_id(devices->parts.sessions, id) != NULL;
    if (state == NULL && own && is_true(received) && !here) // another gateway has said last who it is
        publish_connected(devices, id, false);
    if (state == NULL)
        return;
    if (!state->confirmed)
        mark_due(devices, state, STATE_DISCOVERY);
    state->confirmed = true;
    if (here && !is_true(received))
        mark_due(devices, state, STATE_CONNECTED);
    if (here)
        return;
    if (own || is_true(received) || received->retain)
        state->elsewhere = !own;
    state->connected = is_true(received) && !own;
    if (is_true(received) && own)
        mark_due(devices, state, STATE_CONNECTED);
}

// The time of the last report of an earlier run. What has come since and is older does not count.
static void hear_timestamp(struct device_state *state, const struct mqtt_received *received) {
    char text[DECIMAL_TEXT_MAX];
    if (received->length >= sizeof text || state->since != 0)
        return;
    memcpy(text, received->payload, received->length);
    text[received->length] = '\0';
    double since = strtod(text, NULL) * 1e6;
    bool possible = since > 0 && since <= (double)clock_now(); // otherwise that clock was ahead
    state->since = possible ? (int64_t)since : 0;
    if (state->clock.newest < state->since)
        state->clock.newest = state->since;
    values_remove_before(&state->values, state->since);
}

// topic is what follows telemetry/. Values of a device that is being removed, or that it does not have, are
// cleared.
static void hear_telemetry(struct devices *devices, int64_t id, const char *topic,
                           const struct mqtt_received *received) {
    struct device_state *state = find(devices, id);
    bool goes = clearing_is_under_way(devices->parts.clearing, id);
    if (!goes && state != NULL && strcmp(topic, "timestamp") == 0)
        hear_timestamp(state, received);
    if (goes && (state == NULL || !values_have(&state->values, topic)))
        bus_publish(devices->parts.bus, NULL, MQTT_RETAINED,
                    TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_TELEMETRY "%s", (long long)id, topic);
}

void devices_received(struct devices *devices, const char *topic, const struct mqtt_received *received) {
    char *rest;
    int64_t id = strtoll(topic, &rest, 10);
    bool own = bus_is_own(devices->parts.bus, received->instance);
    const char *telemetry = topic_after(rest, TOPIC_TELEMETRY);
    if (rest == topic)
        return;
    if (*rest == '\0' && received->length > 0)
        hear_identity(devices, id, received, own);
    else if (strcmp(rest, TOPIC_CONNECTED) == 0)
        hear_connected(devices, id, received, own);
    else if (telemetry != NULL && received->retain && received->length > 0)
        hear_telemetry(devices, id, telemetry, received);
}

void devices_all_read(struct devices *devices) {
    struct device_state *state;
    DL_FOREACH(devices->by_age, state) {
        if (!state->confirmed)
            mark_due(devices, state, STATE_CONNECTED | STATE_DISCOVERY);
        state->confirmed = true;
    }
}

struct devices *devices_new(const struct devices_parts *parts) {
    struct devices *devices = must_have(calloc(1, sizeof *devices));
    devices->parts = *parts;
    take_registry(devices);
    publisher_add(parts->publisher, publish_due, devices);
    return devices;
}

void devices_free(struct devices *devices) {
    while (devices->by_age != NULL)
        forget(devices, devices->by_age);
    free(devices);
}

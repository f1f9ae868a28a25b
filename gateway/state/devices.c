// What stands retained for each device; see devices.h.
#include "gateway/state/devices.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"
#include "gateway/run/gateway.h"
#include "gateway/state/home_assistant.h"
#include "gateway/state/state.h"

#define VALUES_MAX                                                                                           \
    1024 // bytes of last values of a device; what does not fit is published each time it is reported
#define UNLISTED_MAX                                                                                         \
    200000               // devices outside the registry; beyond that the one heard longest ago is forgotten
#define PASSED_MAX   100 // states that are looked at for one to forget
#define TOPIC_MAX    1024
#define POSITION_MAX 1024 // bytes of telemetry/position

// A last value: index (of an indexed field), then the JSON text. They stand in a device's values one after
// the other, unaligned. The entry of FIELD_NONE is telemetry/position.
struct __attribute__((packed)) entry {
    int64_t timestamp; // of the report it came with, microseconds since 1970
    uint16_t field;
    uint16_t length; // of the JSON text
    uint8_t index_length;
    bool due;
};

// --- the table ---

static struct device_state *find(const struct gateway *gateway, int64_t id) {
    struct device_state *state;
    HASH_FIND(hh, gateway->devices.by_id, &id, sizeof id, state);
    return state;
}

static void mark_due(struct gateway *gateway, struct device_state *state, unsigned parts) {
    struct device_state_table *table = &gateway->devices;
    if (!gateway->config->home_assistant.enabled)
        parts &= ~(unsigned)STATE_DISCOVERY;
    if (parts == 0)
        return;
    if (state->due == 0)
        DL_APPEND2(table->due, state, prev_due, next_due);
    state->due |= (uint8_t)parts;
    state_is_due(gateway);
}

// What was announced is no longer right.
static void announce_anew(struct gateway *gateway, struct device_state *state) {
    state->announced = 0;
    mark_due(gateway, state, STATE_DISCOVERY);
}

static void forget(struct gateway *gateway, struct device_state *state) {
    struct device_state_table *table = &gateway->devices;
    if (state->due != 0)
        DL_DELETE2(table->due, state, prev_due, next_due);
    table->unlisted -= !state->listed;
    DL_DELETE(table->heard, state);
    HASH_DEL(table->by_id, state);
    free(state->name);
    free(state->values);
    free(state);
}

// Keeps the table bounded, whatever idents come in. Those that may not be forgotten go to the end, so that
// the next one does not pass them again; how many it passes is bounded as well.
static void make_room(struct gateway *gateway) {
    struct device_state_table *table = &gateway->devices;
    for (unsigned passed = 0; passed < PASSED_MAX && table->unlisted >= UNLISTED_MAX; passed++) {
        struct device_state *state = table->heard;
        if (!state->listed && !state->connected) {
            forget(gateway, state);
            continue;
        }
        DL_DELETE(table->heard, state);
        DL_APPEND(table->heard, state);
    }
}

static struct device_state *find_or_make(struct gateway *gateway, int64_t id, const char *ident) {
    struct device_state_table *table = &gateway->devices;
    struct device_state *state = find(gateway, id);
    if (state != NULL)
        return state;
    make_room(gateway);
    state = must_have(calloc(1, sizeof *state));
    state->id = id;
    snprintf(state->ident, sizeof state->ident, "%s", ident);
    HASH_ADD(hh, table->by_id, id, sizeof state->id, state);
    DL_APPEND(table->heard, state);
    table->unlisted++;
    return state;
}

// --- values ---

static struct entry *entry_at(const struct device_state *state, size_t offset) {
    return (struct entry *)(state->values + offset);
}

static char *index_of(struct entry *entry) {
    return (char *)(entry + 1);
}

static char *text_of(struct entry *entry) {
    return index_of(entry) + entry->index_length;
}

static size_t size_of(const struct entry *entry) {
    return sizeof *entry + entry->index_length + entry->length;
}

static bool is_entry_of(struct entry *entry, const struct message_member *member) {
    return entry->field == member->field && entry->index_length == member->index_length &&
           memcmp(index_of(entry), member->index, member->index_length) == 0;
}

// Reports have the same values in the same order, mostly: *hint is where the one after the last was found.
static struct entry *find_value(const struct device_state *state, const struct message_member *member,
                                size_t *hint) {
    for (size_t pass = 0; pass < 2; pass++) {
        size_t end = pass == 0 ? state->values_length : *hint;
        for (size_t at = pass == 0 ? *hint : 0; at < end; at += size_of(entry_at(state, at))) {
            struct entry *entry = entry_at(state, at);
            if (!is_entry_of(entry, member))
                continue;
            *hint = at + size_of(entry);
            return entry;
        }
    }
    return NULL;
}

static struct entry *add_value(struct device_state *state, const struct message_member *member,
                               size_t *hint) {
    struct entry new = {.field = (uint16_t)member->field,
                        .index_length = (uint8_t)member->index_length,
                        .timestamp = INT64_MIN};
    if (state->values_length + size_of(&new) + member->length > VALUES_MAX)
        return NULL;
    state->values = must_have(realloc(state->values, state->values_length + size_of(&new)));
    struct entry *entry = entry_at(state, state->values_length);
    *entry = new;
    memcpy(index_of(entry), member->index, member->index_length);
    state->values_length += (uint32_t)size_of(entry);
    *hint = state->values_length;
    return entry;
}

static void remove_value(struct device_state *state, struct entry *entry) {
    size_t size = size_of(entry), behind = (size_t)((uint8_t *)entry - state->values) + size;
    memmove(entry, state->values + behind, state->values_length - behind);
    state->values_length -= (uint32_t)size;
}

// Makes room for a text of another length. NULL, and the entry is gone, when there is none.
static struct entry *resize_value(struct device_state *state, struct entry *entry, size_t length) {
    size_t at = (size_t)((uint8_t *)entry - state->values);
    size_t behind = at + size_of(entry), rest = state->values_length - behind;
    size_t end = behind - entry->length + length;
    if (end + rest > VALUES_MAX) {
        remove_value(state, entry);
        return NULL;
    }
    if (end > behind)
        state->values = must_have(realloc(state->values, end + rest));
    memmove(state->values + end, state->values + behind, rest);
    state->values_length = (uint32_t)(end + rest);
    entry = entry_at(state, at);
    entry->length = (uint16_t)length;
    return entry;
}

static uint64_t publish_value(struct gateway *gateway, const struct device_state *state, enum field field,
                              const char *index, size_t index_length, const char *text, size_t length) {
    char topic[TOPIC_MAX];
    snprintf(topic, sizeof topic, "%s/state/gw/devices/%lld/telemetry/%s%s%.*s",
             gateway->config->mqtt.topic_prefix, (long long)state->id,
             field == FIELD_NONE ? "position" : field_table[field].key, index_length > 0 ? "." : "",
             (int)index_length, index);
    return gateway_publish_text(gateway, topic, text, length, MQTT_RETAINED);
}

// What memory has no room for goes out each time, if the broker takes it now.
static void publish_at_once(struct gateway *gateway, const struct device_state *state,
                            const struct message_member *member) {
    if (outbox_keeps_up(gateway->outbox))
        publish_value(gateway, state, member->field, member->index, member->index_length, member->value,
                      member->length);
}

// A field that is not in memory may be one that was never there before.
static void note_field(struct gateway *gateway, struct device_state *state, enum field field) {
    uint32_t entity = home_assistant_entity_of(field);
    if ((entity & ~state->reported) == 0)
        return;
    state->reported |= entity;
    mark_due(gateway, state, STATE_DISCOVERY);
}

static void take_value(struct gateway *gateway, struct device_state *state,
                       const struct message_member *member, int64_t timestamp, size_t *hint) {
    if (timestamp < state->since)
        return;
    struct entry *entry = find_value(state, member, hint);
    if (entry == NULL) {
        note_field(gateway, state, member->field);
        entry = add_value(state, member, hint);
    }
    if (entry != NULL && timestamp < entry->timestamp)
        return;
    bool same = entry != NULL && entry->length == member->length && entry->timestamp != INT64_MIN &&
                memcmp(text_of(entry), member->value, member->length) == 0;
    if (!same && entry != NULL && entry->length != member->length) {
        size_t at = (size_t)((uint8_t *)entry - state->values);
        entry = resize_value(state, entry, member->length);
        *hint = entry != NULL ? at + size_of(entry) : at;
    }
    if (entry == NULL) {
        publish_at_once(gateway, state, member);
        return;
    }
    entry->timestamp = timestamp;
    if (same)
        return;
    if (entry->length == member->length)
        memcpy(text_of(entry), member->value, member->length);
    entry->due = true;
    mark_due(gateway, state, STATE_VALUES);
}

const char *device_state_value(const struct device_state *state, enum field field, size_t *length) {
    const struct message_member wanted = {.field = field, .index = ""};
    size_t hint = 0;
    struct entry *entry = find_value(state, &wanted, &hint);
    if (entry != NULL)
        *length = entry->length;
    return entry != NULL ? text_of(entry) : NULL;
}

// --- identity ---

// Telemetry has the identity too, as it was in the last message.
static void renew_value(struct gateway *gateway, struct device_state *state, enum field field,
                        json_t *value) {
    char *text = must_have(json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT));
    const struct message_member member = {.field = field, .index = "", .value = text, .length = strlen(text)};
    size_t hint = 0;
    struct entry *entry = find_value(state, &member, &hint);
    if (entry != NULL)
        take_value(gateway, state, &member, entry->timestamp, &hint);
    free(text);
    json_decref(value);
}

// Takes over what the registry says. All of a device that is new, or has got another ident, is due.
static void identify(struct gateway *gateway, struct device_state *state, const struct device *device,
                     const char *ident) {
    bool same = state->name != NULL && strcmp(state->name, device->name) == 0 &&
                state->type_id == device->type_id && strcmp(state->ident, ident) == 0;
    gateway->devices.unlisted += state->listed - device->listed;
    state->listed = device->listed;
    if (same)
        return;
    snprintf(state->ident, sizeof state->ident, "%s", ident);
    free(state->name);
    state->name = must_have(strdup(device->name));
    state->type_id = device->type_id;
    announce_anew(gateway, state);
    renew_value(gateway, state, FIELD_DEVICE_ID, json_integer((json_int_t)state->id));
    renew_value(gateway, state, FIELD_DEVICE_NAME, json_string(state->name));
    renew_value(gateway, state, FIELD_DEVICE_TYPE_ID, json_integer((json_int_t)state->type_id));
    mark_due(gateway, state, STATE_IDENTITY);
}

// --- position ---

struct position {
    char text[POSITION_MAX];
    size_t length;
    bool has_place; // latitude and longitude
};

static void add_part(struct position *position, const char *name, const char *value, size_t length) {
    int added = snprintf(position->text + position->length, sizeof position->text - position->length,
                         "%c\"%s\":%.*s", position->length == 0 ? '{' : ',', name, (int)length, value);
    if (position->length + (size_t)added < sizeof position->text - 1)
        position->length += (size_t)added;
    else
        position->text[position->length] = '\0';
}

// The position.* of a message. gps_accuracy is what Home Assistant looks for.
static void collect_position(const struct message_member *members, size_t count, struct position *position) {
    static const char prefix[] = "position.";
    const struct message_member *latitude = NULL, *longitude = NULL;
    for (size_t i = 0; i < count; i++) {
        const char *key = field_table[members[i].field].key;
        if (members[i].field == FIELD_POSITION_LATITUDE)
            latitude = &members[i];
        if (members[i].field == FIELD_POSITION_LONGITUDE)
            longitude = &members[i];
        if (members[i].field == FIELD_POSITION_ACCURACY)
            add_part(position, "gps_accuracy", members[i].value, members[i].length);
        if (strncmp(key, prefix, sizeof prefix - 1) == 0)
            add_part(position, key + sizeof prefix - 1, members[i].value, members[i].length);
    }
    position->has_place = latitude != NULL && longitude != NULL;
    if (position->length > 0)
        position->text[position->length++] = '}';
}

// A report without coordinates says of the last place what it can ("valid":false), but does not take it away.
static void merge_position(const struct device_state *state, struct position *position) {
    size_t length;
    const char *known = device_state_value(state, FIELD_NONE, &length);
    json_t *whole = known != NULL ? json_loadb(known, length, 0, NULL) : NULL;
    json_t *part = json_loadb(position->text, position->length, 0, NULL);
    char *text = NULL;
    json_object_del(part, "latitude"); // one alone is no place
    json_object_del(part, "longitude");
    if (whole != NULL && json_object_update(whole, part) == 0)
        text = json_dumps(whole, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(15));
    if (text != NULL && strlen(text) < sizeof position->text)
        position->length = strlen(strcpy(position->text, text));
    free(text);
    json_decref(whole);
    json_decref(part);
}

static void take_position(struct gateway *gateway, struct device_state *state,
                          const struct message_member *members, size_t count, int64_t timestamp) {
    struct position position = {.length = 0};
    size_t hint = 0;
    collect_position(members, count, &position);
    if (position.length == 0)
        return;
    if (!position.has_place)
        merge_position(state, &position);
    const struct message_member member = {
        .field = FIELD_NONE, .index = "", .value = position.text, .length = position.length};
    take_value(gateway, state, &member, timestamp, &hint);
}

// --- what happens to devices ---

static void take_codec(struct gateway *gateway, struct device_state *state, const struct codec *codec) {
    if (state->codec == codec)
        return;
    state->codec = codec;
    mark_due(gateway, state, STATE_IDENTITY);
    announce_anew(gateway, state);
}

void device_state_connected(struct gateway *gateway, const struct session *session, const struct peer *peer) {
    if (!session->device.known)
        return;
    struct device_state *state = find_or_make(gateway, session->device.id, session->ident);
    identify(gateway, state, &session->device, session->ident);
    take_codec(gateway, state, peer->channel->config->codec);
    if (state->elsewhere)
        announce_anew(gateway, state);
    state->elsewhere = false;
    state->connected = true;
    mark_due(gateway, state, STATE_CONNECTED);
}

void device_state_disconnected(struct gateway *gateway, const struct session *session, bool elsewhere) {
    struct device_state *state = session->device.known ? find(gateway, session->device.id) : NULL;
    if (state == NULL || strcmp(state->ident, session->ident) != 0)
        return;
    state->elsewhere = elsewhere;
    if (elsewhere)
        return;
    state->connected = false;
    mark_due(gateway, state, STATE_CONNECTED);
}

void device_state_report(struct gateway *gateway, const struct session *session,
                         const struct message_member *members, size_t count, int64_t timestamp, int64_t now) {
    struct device_state *state = session->device.known ? find(gateway, session->device.id) : NULL;
    if (state == NULL)
        return;
    size_t hint = 0;
    DL_DELETE(gateway->devices.heard, state);
    DL_APPEND(gateway->devices.heard, state);
    // A clock that is ahead must not keep later reports out.
    if (timestamp > now)
        timestamp = now;
    if (gateway->config->telemetry == TELEMETRY_PARAMETERS)
        for (size_t i = 0; i < count; i++)
            take_value(gateway, state, &members[i], timestamp, &hint);
    if (gateway->config->telemetry != TELEMETRY_OFF)
        take_position(gateway, state, members, count, timestamp);
    device_states_publish(gateway);
}

// --- publishing ---

static bool publish_values(struct gateway *gateway, struct device_state *state) {
    for (size_t at = 0; at < state->values_length; at += size_of(entry_at(state, at))) {
        struct entry *entry = entry_at(state, at);
        if (!entry->due)
            continue;
        if (!outbox_keeps_up(gateway->outbox))
            return false;
        publish_value(gateway, state, (enum field)entry->field, index_of(entry), entry->index_length,
                      text_of(entry), entry->length);
        entry->due = false;
    }
    return true;
}

static void publish_identity(struct gateway *gateway, const struct device_state *state) {
    json_t *protocol = state->codec != NULL ? json_integer((json_int_t)state->codec->id) : json_null();
    json_t *json =
        json_pack("{s:I, s:s, s:s, s:I, s:o}", "id", (json_int_t)state->id, "name", state->name, "ident",
                  state->ident, "device_type_id", (json_int_t)state->type_id, "protocol_id", protocol);
    gateway_publish(gateway, json, MQTT_RETAINED_SIGNED, "state/gw/devices/%lld", (long long)state->id);
    json_decref(json);
}

static void publish_connected(struct gateway *gateway, int64_t id, bool connected) {
    gateway_publish(gateway, connected ? json_true() : json_false(), MQTT_RETAINED_SIGNED,
                    "state/gw/devices/%lld/connected", (long long)id);
}

// False when the broker does not keep up any more.
static bool publish_device(struct gateway *gateway, struct device_state *state) {
    unsigned due = state->due;
    if ((due & STATE_IDENTITY) != 0)
        publish_identity(gateway, state);
    if ((due & STATE_CONNECTED) != 0)
        publish_connected(gateway, state->id, state->connected);
    state->due &= (uint8_t) ~(STATE_IDENTITY | STATE_CONNECTED);
    if ((due & STATE_VALUES) != 0 && !publish_values(gateway, state))
        return false;
    state->due &= (uint8_t)~STATE_VALUES;
    if ((due & STATE_DISCOVERY) != 0 && !home_assistant_announce(gateway, state))
        return false;
    state->due = 0;
    DL_DELETE2(gateway->devices.due, state, prev_due, next_due);
    return true;
}

bool device_states_publish(struct gateway *gateway) {
    // What goes would take away what has come in its place.
    bool may = gateway->state.answered && gateway->state.unremoved == 0;
    while (may && gateway->devices.due != NULL && outbox_keeps_up(gateway->outbox))
        if (!publish_device(gateway, gateway->devices.due))
            break;
    return gateway->devices.due == NULL;
}

static void mark_values(struct device_state *state) {
    for (size_t at = 0; at < state->values_length; at += size_of(entry_at(state, at)))
        entry_at(state, at)->due = true;
}

void device_states_restore(struct gateway *gateway) {
    struct device_state *state;
    DL_FOREACH(gateway->devices.heard, state) {
        mark_values(state);
        mark_due(gateway, state, STATE_ALL);
        announce_anew(gateway, state);
    }
}

void device_states_announce(struct gateway *gateway) {
    struct device_state *state;
    DL_FOREACH(gateway->devices.heard, state) {
        announce_anew(gateway, state);
    }
}

// --- what goes ---

void device_state_remove(struct gateway *gateway, int64_t id) {
    if (find(gateway, id) == NULL) {
        gateway_publish(gateway, NULL, MQTT_RETAINED, "state/gw/devices/%lld", (long long)id);
        gateway_publish(gateway, NULL, MQTT_RETAINED, "state/gw/devices/%lld/connected", (long long)id);
    }
    home_assistant_remove(gateway, id);
}

// Whether the device still has what the topic telemetry/{name} says.
static bool has_value(const struct device_state *state, const char *name) {
    for (size_t at = 0; at < state->values_length; at += size_of(entry_at(state, at))) {
        struct entry *entry = entry_at(state, at);
        const char *key = entry->field == FIELD_NONE ? "position" : field_table[entry->field].key;
        size_t length = strlen(key);
        if (strncmp(name, key, length) != 0)
            continue;
        const char *rest = name + length;
        if (entry->index_length == 0 ? *rest == '\0'
                                     : *rest == '.' && strlen(rest + 1) == entry->index_length &&
                                           memcmp(rest + 1, index_of(entry), entry->index_length) == 0)
            return true;
    }
    return false;
}

// --- the registry ---

// Makes or updates the state of a listed device. Whether it is connected is said once it is known that no
// other gateway has it.
static void take_listed(struct gateway *gateway, const struct config_device *listed) {
    struct device device = registry_device(gateway->registry, listed->ident);
    struct device_state *state = find_or_make(gateway, device.id, listed->ident);
    identify(gateway, state, &device, listed->ident);
}

static void take_registry(struct gateway *gateway) {
    const struct config_device *device;
    for (size_t i = 0; (device = registry_at(gateway->registry, i)) != NULL; i++)
        take_listed(gateway, device);
}

void device_states_start(struct gateway *gateway) {
    take_registry(gateway);
}

void device_states_free(struct gateway *gateway) {
    while (gateway->devices.heard != NULL)
        forget(gateway, gateway->devices.heard);
}

// Gives a device its new id, with its last values.
static void move(struct gateway *gateway, struct device_state *state, int64_t id) {
    struct device_state *there = find(gateway, id);
    if (there != NULL)
        forget(gateway, there);
    state->id = id;
    state->announced = 0;
    free(state->name); // its identity is another one, whatever it is called
    state->name = NULL;
    HASH_ADD(hh, gateway->devices.by_id, id, sizeof state->id, state);
    mark_values(state);
    mark_due(gateway, state, STATE_ALL);
}

struct moved {
    int64_t from, to;
    struct device_state *state; // NULL: it goes
};

// Where the registry has the device of a state now.
static struct moved place_of(const struct gateway *gateway, struct device_state *state) {
    struct device device = registry_device(gateway->registry, state->ident);
    bool stays = device.known && (device.listed || !state->listed ||
                                  session_by_ident(&gateway->sessions, state->ident) != NULL);
    return (struct moved){.from = state->id, .to = device.id, .state = stays ? state : NULL};
}

static size_t collect_moved(struct gateway *gateway, struct moved *moved) {
    struct device_state *state, *next;
    size_t count = 0;
    DL_FOREACH_SAFE(gateway->devices.heard, state, next) {
        struct moved place = place_of(gateway, state);
        struct device device = registry_device(gateway->registry, state->ident);
        if (place.state != NULL && place.to == place.from) {
            identify(gateway, state, &device, state->ident);
            continue;
        }
        moved[count++] = place;
        if (place.state == NULL)
            forget(gateway, state);
        else
            HASH_DEL(gateway->devices.by_id, state); // ids may be exchanged: first all are taken out
    }
    return count;
}

void device_states_reload(struct gateway *gateway) {
    struct moved *moved = must_have(calloc(HASH_COUNT(gateway->devices.by_id) + 1, sizeof *moved));
    size_t count = collect_moved(gateway, moved);
    for (size_t i = 0; i < count; i++)
        if (moved[i].state != NULL) {
            struct device device = registry_device(gateway->registry, moved[i].state->ident);
            move(gateway, moved[i].state, moved[i].to);
            identify(gateway, moved[i].state, &device, moved[i].state->ident);
        }
    take_registry(gateway);
    for (size_t i = 0; i < count; i++)
        state_clear(gateway, moved[i].from); // of what another has now, what only the one had that had the id
    free(moved);
    if (gateway->state.answered)
        device_states_settled(gateway);
}

// --- what the broker has ---

// An identity that we published in an earlier run. What the registry says now may be another one.
static void hear_unknown(struct gateway *gateway, int64_t id, const char *ident, const struct codec *codec) {
    struct device device = registry_device(gateway->registry, ident);
    if (!device.known || device.id != id) {
        state_clear(gateway, id);
        return;
    }
    struct device_state *state = find_or_make(gateway, id, ident);
    state->codec = codec;
    identify(gateway, state, &device, ident);
}

// The id is that of a listed device: which protocol it has may be known from before; or it was another's.
static void hear_known(struct gateway *gateway, struct device_state *state, const char *ident,
                       const struct codec *codec, bool earlier) {
    bool same = strcmp(state->ident, ident) == 0;
    if (same && state->codec == NULL)
        take_codec(gateway, state, codec);
    if (same || !earlier)
        return;
    state_clear(gateway, state->id);
    announce_anew(gateway, state);
}

static void hear_identity(struct gateway *gateway, int64_t id, const struct mqtt_received *received,
                          bool own) {
    struct device_state *state = find(gateway, id);
    json_t *json = json_loadb(received->payload, received->length, 0, NULL);
    const char *ident = json_string_value(json_object_get(json, "ident"));
    const struct codec *codec =
        codec_by_id((unsigned)json_integer_value(json_object_get(json, "protocol_id")));
    if (ident != NULL && device_ident_valid(ident) && state != NULL)
        hear_known(gateway, state, ident, codec, received->retain && own);
    else if (ident != NULL && device_ident_valid(ident) && own)
        hear_unknown(gateway, id, ident, codec);
    json_decref(json);
}

static bool is_true(const struct mqtt_received *received) {
    return received->length == 4 && memcmp(received->payload, "true", 4) == 0;
}

// The device is here and another gateway says that it is not; or we said in an earlier run that it is here.
static void hear_connected(struct gateway *gateway, int64_t id, const struct mqtt_received *received,
                           bool own) {
    struct device_state *state = find(gateway, id);
    bool here = session_by_device_id(&gateway->sessions, id) != NULL;
    if (state == NULL && own && is_true(received) && !here) // another gateway has said last who it is
        publish_connected(gateway, id, false);
    if (state == NULL)
        return;
    if (!state->heard)
        mark_due(gateway, state, STATE_DISCOVERY);
    state->heard = true;
    if (here && !is_true(received))
        mark_due(gateway, state, STATE_CONNECTED);
    if (here)
        return;
    if (own || is_true(received) || received->retain)
        state->elsewhere = !own;
    state->connected = is_true(received) && !own;
    if (is_true(received) && own)
        mark_due(gateway, state, STATE_CONNECTED);
}

// The time of the last report of an earlier run. What has come since and is older does not count.
static void hear_timestamp(struct device_state *state, const struct mqtt_received *received) {
    char text[DECIMAL_TEXT_MAX];
    size_t at = 0;
    if (received->length >= sizeof text || state->since != 0)
        return;
    memcpy(text, received->payload, received->length);
    text[received->length] = '\0';
    double since = strtod(text, NULL) * 1e6;
    bool possible = since > 0 && since <= (double)gateway_clock(); // otherwise that clock was ahead
    state->since = possible ? (int64_t)since : 0;
    while (at < state->values_length) {
        struct entry *entry = entry_at(state, at);
        if (entry->timestamp < state->since)
            remove_value(state, entry);
        else
            at += size_of(entry);
    }
}

// topic is what follows telemetry/.
static void hear_telemetry(struct gateway *gateway, int64_t id, const char *topic,
                           const struct mqtt_received *received) {
    struct device_state *state = find(gateway, id);
    bool known = state != NULL && has_value(state, topic);
    if (!state_clears_telemetry(gateway, id) && state != NULL && strcmp(topic, "timestamp") == 0)
        hear_timestamp(state, received);
    if (state_clears_telemetry(gateway, id) && !known)
        gateway_publish(gateway, NULL, MQTT_RETAINED, "state/gw/devices/%lld/telemetry/%s", (long long)id,
                        topic);
}

void device_states_heard(struct gateway *gateway, const char *topic, const struct mqtt_received *received) {
    char *rest;
    int64_t id = strtoll(topic, &rest, 10);
    bool own = received->instance != NULL && strcmp(received->instance, gateway->config->mqtt.client_id) == 0;
    static const char telemetry[] = "/telemetry/";
    if (rest == topic)
        return;
    if (*rest == '\0' && received->length > 0)
        hear_identity(gateway, id, received, own);
    else if (strcmp(rest, "/connected") == 0)
        hear_connected(gateway, id, received, own);
    else if (strncmp(rest, telemetry, sizeof telemetry - 1) == 0 && received->retain && received->length > 0)
        hear_telemetry(gateway, id, rest + sizeof telemetry - 1, received);
}

void device_states_settled(struct gateway *gateway) {
    struct device_state *state;
    DL_FOREACH(gateway->devices.heard, state) {
        if (!state->heard)
            mark_due(gateway, state, STATE_CONNECTED | STATE_DISCOVERY);
        state->heard = true;
    }
}

// Home Assistant's MQTT discovery; see home_assistant.h.
//
// The keys are those that Home Assistant documents for MQTT device trackers, sensors, binary sensors, events, buttons,
// selects and texts. What an entity is says one function; what kind of discovery there is decides only around it, so that
// both give the same unique ids.
#include "gateway/state/home_assistant.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/state/home_assistant_gateway.h"
#include "schema/schemas.h"

#define NODE_MAX      640 // a prefix of 128 characters, a device id
#define OBJECT_ID_MAX 64
#define OTHERS_MAX    400000 // of more nothing is moved

// A device of which the broker retains what the other kind of discovery has announced.
struct other {
    int64_t device_id;
    bool told; // Home Assistant, that it moves
    UT_hash_handle hh;
};

struct home_assistant {
    const struct config *config;
    const struct bus *bus;
    struct discovery_place former; // prefix NULL: none that is left
    struct other *others;
};

// What an entity shows or does, and so when a device has it.
enum entity_kind {
    TRACKER,   // telemetry/position, unless telemetry is off
    CONNECTED, // always
    LAST_SEEN, // the same
    VALUE,     // telemetry of a field that was reported
    BATTERY,   // how full it is, by the voltage that was reported, where the codec knows
    ALARM,     // whether the newest report raises the alarm: {id}/alarms
    EVENT,     // that an alarm was raised, whichever
    BUTTON,    // sends a command
    SELECT,    // sends one of those that a property of a command can say
    TEXT,      // sends a command with what somebody types
};

struct entity {
    enum entity_kind kind;
    enum field field;
    const char *command;
    const json_t *schema, *control; // of the command, and its x-button, x-select or x-text
    const char *component;
    char object_id[OBJECT_ID_MAX];
    const char *name;                                  // beside the device's; NULL: the device's alone
    const char *device_class, *unit, *category, *icon; // or NULL
    int digits;                                        // shown behind the point; 0: as Home Assistant likes
};

// The entities that do not depend on the protocol. Alarms, and what sends commands, are the protocol's own.
static const struct entity entities[] = {
    {TRACKER, .component = "device_tracker", .object_id = "position"},
    {CONNECTED, .component = "binary_sensor", .object_id = "connected", .name = "Connected",
     .device_class = "connectivity", .category = "diagnostic"},
    {LAST_SEEN, .component = "sensor", .object_id = "last_seen", .name = "Last seen",
     .device_class = "timestamp", .category = "diagnostic"},
    {VALUE, FIELD_TIMESTAMP, .component = "sensor", .object_id = "timestamp", .name = "Time of last report",
     .device_class = "timestamp", .category = "diagnostic"},
    {BATTERY, FIELD_BATTERY_VOLTAGE, .component = "sensor", .object_id = "battery", .name = "Battery",
     .device_class = "battery", .unit = "%", .category = "diagnostic"},
    {VALUE, FIELD_BATTERY_VOLTAGE, .component = "sensor", .object_id = "battery_voltage",
     .name = "Battery voltage", .device_class = "voltage", .unit = "V", .category = "diagnostic",
     .digits = 2},
    {VALUE, FIELD_EXTERNAL_POWERSOURCE_VOLTAGE, .component = "sensor",
     .object_id = "external_powersource_voltage", .name = "External power voltage", .device_class = "voltage",
     .unit = "V", .category = "diagnostic", .digits = 2},
    // Not of the class signal_strength, which is in dB or dBm.
    {VALUE, FIELD_GSM_SIGNAL_LEVEL, .component = "sensor", .object_id = "gsm_signal_level",
     .name = "Mobile signal", .unit = "%", .category = "diagnostic", .icon = "mdi:signal"},
    {VALUE, FIELD_POSITION_SATELLITES, .component = "sensor", .object_id = "position_satellites",
     .name = "Satellites", .category = "diagnostic", .icon = "mdi:satellite-variant"},
    {VALUE, FIELD_POSITION_SPEED, .component = "sensor", .object_id = "position_speed", .name = "Speed",
     .device_class = "speed", .unit = "km/h"},
    {VALUE, FIELD_BATTERY_CHARGING_STATUS, .component = "binary_sensor",
     .object_id = "battery_charging_status", .name = "Charging", .device_class = "battery_charging",
     .category = "diagnostic"},
    {VALUE, FIELD_ENGINE_IGNITION_STATUS, .component = "binary_sensor", .object_id = "engine_ignition_status",
     .name = "Ignition", .icon = "mdi:key-variant"},
};
#define ENTITY_COUNT (sizeof entities / sizeof entities[0])
_Static_assert(ENTITY_COUNT <= 32, "a bit each in reported and announced");

static uint32_t bit_of(const struct entity *entity) {
    return UINT32_C(1) << (entity - entities);
}

uint32_t home_assistant_entity_of(enum field field) {
    uint32_t bits = 0;
    for (size_t i = 0; i < ENTITY_COUNT && field != FIELD_NONE; i++)
        if (entities[i].field == field)
            bits |= bit_of(&entities[i]);
    return bits;
}

// --- which entities a device has ---

static bool has_entity(const struct home_assistant *home_assistant,
                       const struct home_assistant_device *device, const struct entity *entity) {
    if (entity->kind == TRACKER)
        return home_assistant->config->telemetry != TELEMETRY_OFF;
    if (entity->kind == BATTERY && config_battery(home_assistant->config, device->codec) == NULL)
        return false;
    return entity->field == FIELD_NONE || (device->reported & bit_of(entity)) != 0;
}

// The object id is the name, in the letters that Home Assistant allows in topics.
static struct entity alarm_entity(enum field field) {
    const struct field_info *info = &field_table[field];
    struct entity entity = {ALARM,
                            field,
                            .component = "binary_sensor",
                            .name = info->title,
                            .device_class = info->device_class,
                            .icon = info->icon};
    snprintf(entity.object_id, OBJECT_ID_MAX, "%s", info->name);
    for (char *dot; (dot = strchr(entity.object_id, '.')) != NULL;)
        *dot = '_';
    return entity;
}

static const char *text_of(const json_t *button, const char *key) {
    return json_string_value(json_object_get(button, key));
}

// How a command's schema says that there is an entity for it.
static const struct control {
    const char *key, *component;
    enum entity_kind kind;
} controls[] = {{"x-button", "button", BUTTON}, {"x-select", "select", SELECT}, {"x-text", "text", TEXT}};
#define CONTROL_COUNT (sizeof controls / sizeof controls[0])

static struct entity control_entity(const struct control *kind, const char *command, const json_t *schema,
                                    const json_t *control) {
    struct entity entity = {kind->kind,
                            .command = command,
                            .schema = schema,
                            .control = control,
                            .component = kind->component,
                            .name = text_of(control, "name"),
                            .device_class = text_of(control, "device_class"),
                            .category = text_of(control, "category"),
                            .icon = text_of(control, "icon")};
    snprintf(entity.object_id, OBJECT_ID_MAX, "%s", text_of(control, "object_id"));
    return entity;
}

// Control number index of a protocol. False when it has fewer.
static bool find_control(const struct codec *codec, size_t index, struct entity *entity) {
    json_t *commands = json_object_get(schema_of_commands(codec->name), "$defs"), *schema;
    const char *command;
    json_object_foreach(commands, command, schema) {
        for (size_t i = 0; i < CONTROL_COUNT; i++) {
            const json_t *control = json_object_get(schema, controls[i].key);
            if (control == NULL || index-- > 0)
                continue;
            *entity = control_entity(&controls[i], command, schema, control);
            return true;
        }
    }
    return false;
}

static const struct entity alarm_event = {EVENT, .component = "event", .object_id = "alarm", .name = "Alarms",
                                          .icon = "mdi:alarm-light"};

static size_t count_alarms(const struct codec *codec) {
    size_t count = 0;
    while (codec->alarms != NULL && codec->alarms[count] != FIELD_NONE)
        count++;
    return count;
}

// Entity number index of a protocol's own: the alarms, their event, then what sends commands. False when it has fewer.
static bool find_own(const struct codec *codec, size_t index, struct entity *entity) {
    size_t alarms = codec != NULL ? count_alarms(codec) : 0, before = alarms > 0 ? alarms + 1 : 0;
    if (codec == NULL || index >= before)
        return codec != NULL && find_control(codec, index - before, entity);
    *entity = index < alarms ? alarm_entity(codec->alarms[index]) : alarm_event;
    return true;
}

// --- topics ---

// Names the device among all gateways' on the broker, in the letters that Home Assistant allows in topics.
static void write_node(const struct home_assistant *home_assistant, int64_t device_id, char *node) {
    snprintf(node, NODE_MAX, "%s_%lld", bus_prefix(home_assistant->bus), (long long)device_id);
    discovery_clean(node);
}

// entity: NULL for the device's own topic.
static void write_topic(const struct home_assistant *home_assistant, const char *prefix, int64_t device_id,
                        const struct entity *entity, char topic[DISCOVERY_TOPIC_MAX]) {
    char node[NODE_MAX];
    write_node(home_assistant, device_id, node);
    if (entity == NULL)
        snprintf(topic, DISCOVERY_TOPIC_MAX, "%s/device/%s/config", prefix, node);
    else
        snprintf(topic, DISCOVERY_TOPIC_MAX, "%s/%s/%s/%s/config", prefix, entity->component, node,
                 entity->object_id);
}

// False when the outbox is full.
static bool publish(const struct home_assistant *home_assistant, const char *prefix, int64_t device_id,
                    const struct entity *entity, const char *text) {
    char topic[DISCOVERY_TOPIC_MAX];
    write_topic(home_assistant, prefix, device_id, entity, topic);
    return bus_publish_text(home_assistant->bus, topic, text, strlen(text), MQTT_RETAINED) != 0;
}

// --- the payload ---

// Sets key to {prefix}/{topic…}.
__attribute__((format(printf, 4, 5))) static void set_topic(json_t *config,
                                                            const struct home_assistant *home_assistant,
                                                            const char *key, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *topic = text_vformat(format, arguments);
    va_end(arguments);
    json_object_set_new(config, key, json_sprintf("%s/%s", bus_prefix(home_assistant->bus), topic));
    free(topic);
}

static void set_text(json_t *config, const char *key, const char *text) {
    json_object_set_new(config, key, json_string(text));
}

static json_t *describe_device(const struct bus *bus, const struct home_assistant_device *device,
                               const char *node) {
    const json_t *known = schema_of_model(device->type_id);
    const char *model = known != NULL           ? text_of(known, "model")
                        : device->codec != NULL ? device->codec->title
                                                : NULL;
    char gateway[HOME_ASSISTANT_GATEWAY_MAX];
    return must_have(json_pack("{s:[s], s:s, s:s, s:s*, s:s*, s:s}", "identifiers", node, "name",
                               device->name, "serial_number", device->ident, "manufacturer",
                               text_of(known, "manufacturer"), "model", model, "via_device",
                               home_assistant_gateway_node(bus, gateway)));
}

static json_t *describe_origin(void) {
    return must_have(json_pack("{s:s, s:s}", "name", "trackbus", "sw_version", TRACKBUS_VERSION));
}

// A tracker that sleeps is not unavailable: what it said last still holds, and commands wait for it. The
// gateway is unavailable when it is gone.
static void describe_availability(json_t *config, const struct home_assistant *home_assistant) {
    set_topic(config, home_assistant, "availability_topic", TOPIC_STATE TOPIC_INSTANCES "%s",
              bus_client_id(home_assistant->bus));
    set_text(config, "availability_template", "{{ value_json.state }}");
}

static void describe_truth(json_t *config) {
    set_text(config, "payload_on", "true");
    set_text(config, "payload_off", "false");
}

static void describe_value(json_t *config, const struct home_assistant *home_assistant,
                           const struct home_assistant_device *device, enum field field) {
    set_topic(config, home_assistant, "state_topic", TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_TELEMETRY "%s",
              (long long)device->id, field_table[field].key);
    if (field == FIELD_TIMESTAMP)
        set_text(config, "value_template", "{{ value | float | as_datetime if value else this.state }}");
    else if (field_table[field].type == FIELD_BOOLEAN)
        describe_truth(config);
    else
        set_text(config, "state_class", "measurement");
}

// The codec's curve, as Home Assistant's templates can say it: from each of its points to the next. A topic that is cleared
// has an empty value, perhaps before the entity goes.
static void describe_battery(json_t *config, const struct home_assistant *home_assistant,
                             const struct home_assistant_device *device) {
    char lines[512] = "";
    const struct codec_battery *from = config_battery(home_assistant->config, device->codec);
    for (size_t length = 0; from->percent < 100 && length < sizeof lines - 1; from++, length = strlen(lines))
        snprintf(lines + length, sizeof lines - length, "(%u,%u,%u,%u),", from->millivolts, from->percent,
                 from[1].millivolts, from[1].percent);
    describe_value(config, home_assistant, device, FIELD_BATTERY_VOLTAGE);
    json_object_set_new(
        config, "value_template",
        json_sprintf("{%% set v = value | float(0) * 1000 %%}{%% set r = namespace(p=0) %%}"
                     "{%% for a, f, b, t in [%s] if v > a %%}"
                     "{%% set r.p = f + (t - f) * (([v, b] | min) - a) / (b - a) %%}{%% endfor %%}"
                     "{{ r.p | round | int if value else None }}",
                     lines));
}

static void describe_last_seen(json_t *config, const struct home_assistant *home_assistant,
                               const struct home_assistant_device *device) {
    set_topic(config, home_assistant, "state_topic", TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_ACTIVE,
              (long long)device->id);
    set_text(config, "value_template", "{{ value | int | as_datetime if value else this.state }}");
}

static void listen_to_messages(json_t *config, const struct home_assistant *home_assistant,
                               const struct home_assistant_device *device) {
    if (home_assistant->config->on_devices)
        set_topic(config, home_assistant, "state_topic", TOPIC_MESSAGE TOPIC_DEVICES "%lld",
                  (long long)device->id);
    else
        set_topic(config, home_assistant, "state_topic", TOPIC_MESSAGE TOPIC_CHANNELS "+/%s", device->ident);
}

// Off with the next report that does not raise it, or after alarm_hold, also when Home Assistant starts meanwhile. A battery
// stays low.
static void describe_alarm(json_t *config, const struct home_assistant *home_assistant,
                           const struct home_assistant_device *device, enum field field) {
    int hold = field == FIELD_BATTERY_LOW_ALARM ? 0 : home_assistant->config->home_assistant.alarm_hold;
    char within[96] = "";
    if (hold > 0) {
        json_object_set_new(config, "off_delay", json_integer(hold));
        snprintf(within, sizeof within, " and as_timestamp(now()) - value_json['server.timestamp'] < %d",
                 hold);
    }
    set_topic(config, home_assistant, "state_topic", TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_ALARMS,
              (long long)device->id);
    json_object_set_new(
        config, "value_template",
        json_sprintf("{%% if value %%}{{ (value_json['%s'] is defined%s) | lower }}{%% endif %%}",
                     field_table[field].key, within));
    describe_truth(config);
}

// Of a message that raises several, the first counts; of one that raises none, an empty payload is no event. One from the
// tracker's memory counts too: the time that goes with it says when it was.
static void describe_event(json_t *config, const struct home_assistant *home_assistant,
                           const struct home_assistant_device *device) {
    json_t *types = json_array();
    char fields[512] = "";
    for (const enum field *alarm = device->codec->alarms; *alarm != FIELD_NONE; alarm++) {
        struct entity entity = alarm_entity(*alarm);
        size_t length = strlen(fields);
        json_array_append_new(types, json_string(entity.object_id));
        snprintf(fields + length, sizeof fields - length, "'%s',", field_table[*alarm].key);
    }
    listen_to_messages(config, home_assistant, device);
    json_object_set_new(config, "event_types", types);
    json_object_set_new(
        config, "value_template",
        json_sprintf(
            "{%% for f in [%s] if value_json[f] | default(false) %%}{%% if loop.first %%}"
            "{\"event_type\":\"{{ f | replace('.', '_') }}\",\"timestamp\":{{ value_json.timestamp }}}"
            "{%% endif %%}{%% endfor %%}",
            fields));
}

static void describe_button(json_t *config, const struct entity *entity) {
    json_object_set_new(config, "payload_press", json_sprintf("{\"name\":\"%s\"}", entity->command));
}

static void describe_select(json_t *config, const struct entity *entity) {
    const char *property = text_of(entity->control, "property");
    const json_t *values = json_object_get(json_object_get(entity->schema, "properties"), property);
    json_object_set(config, "options", json_object_get(values, "enum"));
    json_object_set_new(
        config, "command_template",
        json_sprintf("{\"name\":\"%s\",\"properties\":{\"%s\":\"{{ value }}\"}}", entity->command, property));
}

static void describe_text(json_t *config, const struct entity *entity) {
    set_text(config, "command_template", text_of(entity->control, "template"));
    set_text(config, "pattern", text_of(entity->control, "pattern"));
}

// One after which the device may be out of reach has to be enabled first.
static void describe_control(json_t *config, const struct home_assistant *home_assistant,
                             const struct home_assistant_device *device, const struct entity *entity) {
    set_topic(config, home_assistant, "command_topic", TOPIC_COMMAND TOPIC_DEVICES "%lld",
              (long long)device->id);
    if (json_is_true(json_object_get(entity->schema, "x-risky")))
        json_object_set_new(config, "enabled_by_default", json_false());
    if (entity->kind == BUTTON)
        describe_button(config, entity);
    else if (entity->kind == SELECT)
        describe_select(config, entity);
    else
        describe_text(config, entity);
}

// What the entity reads or writes.
static void describe_topics(json_t *config, const struct home_assistant *home_assistant,
                            const struct home_assistant_device *device, const struct entity *entity) {
    switch (entity->kind) {
    case TRACKER:
        set_topic(config, home_assistant, "json_attributes_topic",
                  TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_TELEMETRY "position", (long long)device->id);
        set_text(config, "source_type", "gps");
        break;
    case CONNECTED:
        set_topic(config, home_assistant, "state_topic", TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_CONNECTED,
                  (long long)device->id);
        describe_truth(config);
        break;
    case LAST_SEEN:
        describe_last_seen(config, home_assistant, device);
        break;
    case VALUE:
        describe_value(config, home_assistant, device, entity->field);
        break;
    case BATTERY:
        describe_battery(config, home_assistant, device);
        break;
    case EVENT:
        describe_event(config, home_assistant, device);
        break;
    case ALARM:
        describe_alarm(config, home_assistant, device, entity->field);
        break;
    case BUTTON:
    case SELECT:
    case TEXT:
        describe_control(config, home_assistant, device, entity);
        break;
    }
}

// But for what all entities of the device have alike.
static json_t *describe_entity(const struct home_assistant *home_assistant,
                               const struct home_assistant_device *device, const struct entity *entity) {
    char node[NODE_MAX];
    write_node(home_assistant, device->id, node);
    json_t *config = json_pack("{s:o, s:s?, s:s*, s:s*, s:s*, s:s*, s:i}", "unique_id",
                               json_sprintf("%s_%s", node, entity->object_id), "name", entity->name,
                               "device_class", entity->device_class, "unit_of_measurement", entity->unit,
                               "entity_category", entity->category, "icon", entity->icon, "qos", 1);
    describe_topics(must_have(config), home_assistant, device, entity);
    if (entity->digits > 0) // a volt has none otherwise
        json_object_set_new(config, "suggested_display_precision", json_integer(entity->digits));
    return config;
}

static void add_component(json_t *components, json_t *config, const struct entity *entity) {
    set_text(config, "p", entity->component);
    json_object_set_new(components, entity->object_id, config);
}

static bool has_own(const struct codec *codec, const struct entity *wanted);

// A component that is merely left out would stay at Home Assistant: it goes when nothing but its kind is said.
static void add_those_of_others(json_t *components, const struct home_assistant *home_assistant,
                                const struct home_assistant_device *device) {
    struct entity own;
    if (device->codec == NULL) // it may be one that speaks, and has not yet
        return;
    for (size_t i = 0; i < ENTITY_COUNT; i++)
        if (entities[i].kind == BATTERY && config_battery(home_assistant->config, device->codec) == NULL)
            add_component(components, must_have(json_object()), &entities[i]);
    for (size_t i = 0; codec_at(i) != NULL; i++)
        for (size_t n = 0; find_own(codec_at(i), n, &own); n++)
            if (json_object_get(components, own.object_id) == NULL)
                add_component(components, must_have(json_object()), &own);
}

// All of the device, for its own topic.
static json_t *describe_whole(const struct home_assistant *home_assistant,
                              const struct home_assistant_device *device) {
    char node[NODE_MAX];
    struct entity own;
    json_t *components = must_have(json_object());
    write_node(home_assistant, device->id, node);
    json_t *config =
        must_have(json_pack("{s:o, s:o, s:o}", "dev", describe_device(home_assistant->bus, device, node), "o",
                            describe_origin(), "cmps", components));
    describe_availability(config, home_assistant);
    for (size_t i = 0; i < ENTITY_COUNT; i++)
        if (has_entity(home_assistant, device, &entities[i]))
            add_component(components, describe_entity(home_assistant, device, &entities[i]), &entities[i]);
    for (size_t i = 0; find_own(device->codec, i, &own); i++)
        add_component(components, describe_entity(home_assistant, device, &own), &own);
    add_those_of_others(components, home_assistant, device);
    return config;
}

// What stands on the topic of an entity; NULL: of the device.
static json_t *describe(const struct home_assistant *home_assistant,
                        const struct home_assistant_device *device, const struct entity *entity) {
    char node[NODE_MAX];
    if (entity == NULL)
        return describe_whole(home_assistant, device);
    json_t *config = describe_entity(home_assistant, device, entity);
    write_node(home_assistant, device->id, node);
    json_object_set_new(config, "device", describe_device(home_assistant->bus, device, node));
    json_object_set_new(config, "origin", describe_origin());
    describe_availability(config, home_assistant);
    return config;
}

// --- announcing ---

static bool announce(const struct home_assistant *home_assistant, const struct home_assistant_device *device,
                     const struct entity *entity) {
    json_t *config = describe(home_assistant, device, entity);
    char *text = text_of_json(config, TEXT_VALUE_DIGITS);
    bool published =
        publish(home_assistant, home_assistant->config->home_assistant.prefix, device->id, entity, text);
    free(text);
    json_decref(config);
    return published;
}

// False when the broker does not keep up.
static bool announce_if_it_keeps_up(const struct home_assistant *home_assistant,
                                    const struct home_assistant_device *device, const struct entity *entity) {
    return bus_keeps_up(home_assistant->bus) && announce(home_assistant, device, entity);
}

// Of the device's own topic: own is 1 once it is published, with these entities.
static bool announce_whole(const struct home_assistant *home_assistant,
                           struct home_assistant_device *device) {
    uint32_t wanted = 0;
    for (size_t i = 0; i < ENTITY_COUNT; i++)
        if (has_entity(home_assistant, device, &entities[i]))
            wanted |= bit_of(&entities[i]);
    if (device->announced.own == 1 && device->announced.entities == wanted)
        return true;
    if (!announce_if_it_keeps_up(home_assistant, device, NULL))
        return false;
    device->announced = (struct home_assistant_announced){.entities = wanted, .own = 1};
    return true;
}

bool home_assistant_announce(const struct home_assistant *home_assistant,
                             struct home_assistant_device *device) {
    struct entity own;
    if (home_assistant->config->home_assistant.discovery == DISCOVERY_DEVICE)
        return announce_whole(home_assistant, device);
    for (size_t i = 0; i < ENTITY_COUNT; i++) {
        uint32_t bit = bit_of(&entities[i]);
        if ((device->announced.entities & bit) != 0 || !has_entity(home_assistant, device, &entities[i]))
            continue;
        if (!announce_if_it_keeps_up(home_assistant, device, &entities[i]))
            return false;
        device->announced.entities |= bit;
    }
    for (; find_own(device->codec, device->announced.own, &own); device->announced.own++)
        if (!announce_if_it_keeps_up(home_assistant, device, &own))
            return false;
    return true;
}

// --- what has come ---

static bool is_topic_of(const struct home_assistant *home_assistant,
                        const struct home_assistant_device *device, const struct entity *entity,
                        const char *topic) {
    char ours[DISCOVERY_TOPIC_MAX];
    write_topic(home_assistant, home_assistant->config->home_assistant.prefix, device->id, entity, ours);
    return strcmp(ours, topic) == 0;
}

// The announced entity that the topic is of. False when there is none.
static bool find_announced(const struct home_assistant *home_assistant,
                           const struct home_assistant_device *device, const char *topic,
                           struct entity *entity) {
    for (size_t i = 0; i < ENTITY_COUNT; i++) {
        *entity = entities[i];
        if ((device->announced.entities & bit_of(&entities[i])) != 0 &&
            is_topic_of(home_assistant, device, entity, topic))
            return true;
    }
    for (uint32_t i = 0; i < device->announced.own && find_own(device->codec, i, entity); i++)
        if (is_topic_of(home_assistant, device, entity, topic))
            return true;
    return false;
}

bool home_assistant_is_right(const struct home_assistant *home_assistant,
                             const struct home_assistant_device *device,
                             const struct mqtt_received *received) {
    struct entity entity;
    bool whole = home_assistant->config->home_assistant.discovery == DISCOVERY_DEVICE;
    if (whole ? device->announced.own == 0
              : !find_announced(home_assistant, device, received->topic, &entity))
        return true;
    json_t *json = json_loadb(received->payload, received->length, 0, NULL);
    json_t *ours = describe(home_assistant, device, whole ? NULL : &entity);
    bool right = json_equal(json, ours);
    json_decref(ours);
    json_decref(json);
    return right;
}

// --- removing ---

static void say_alarms(const struct home_assistant *home_assistant, const char *prefix, int64_t device_id,
                       const char *text) {
    for (enum field field = FIELD_NONE + 1; field < FIELD_COUNT; field++) {
        struct entity alarm = alarm_entity(field);
        if (field_table[field].alarm)
            publish(home_assistant, prefix, device_id, &alarm, text);
    }
    publish(home_assistant, prefix, device_id, &alarm_event, text);
}

// Protocols may have the same one.
static void say_controls(const struct home_assistant *home_assistant, const char *prefix, int64_t device_id,
                         const char *text) {
    struct entity control;
    json_t *said = must_have(json_object());
    for (size_t i = 0; codec_at(i) != NULL; i++)
        for (size_t n = 0; find_control(codec_at(i), n, &control); n++) {
            char key[2 * OBJECT_ID_MAX];
            snprintf(key, sizeof key, "%s/%s", control.component, control.object_id);
            if (json_object_get(said, key) != NULL)
                continue;
            publish(home_assistant, prefix, device_id, &control, text);
            json_object_set_new(said, key, json_true());
        }
    json_decref(said);
}

// On all topics that a device may have there. Only those of that kind: others may not be known to Home Assistant.
static void say_everywhere(const struct home_assistant *home_assistant, const struct discovery_place *place,
                           int64_t device_id, const char *text) {
    if (place->kind == DISCOVERY_DEVICE) {
        publish(home_assistant, place->prefix, device_id, NULL, text);
        return;
    }
    for (size_t i = 0; i < ENTITY_COUNT; i++)
        publish(home_assistant, place->prefix, device_id, &entities[i], text);
    say_alarms(home_assistant, place->prefix, device_id, text);
    say_controls(home_assistant, place->prefix, device_id, text);
}

static struct other *find_other(const struct home_assistant *home_assistant, int64_t device_id) {
    struct other *other;
    HASH_FIND(hh, home_assistant->others, &device_id, sizeof device_id, other);
    return other;
}

static void drop_other(struct home_assistant *home_assistant, struct other *other) {
    HASH_DEL(home_assistant->others, other);
    free(other);
}

void home_assistant_remove(struct home_assistant *home_assistant, int64_t device_id) {
    struct discovery_place now = discovery_place(home_assistant->config, false),
                           others = discovery_place(home_assistant->config, true);
    struct other *other = find_other(home_assistant, device_id);
    home_assistant_remove_former(home_assistant, device_id);
    if (!home_assistant->config->home_assistant.enabled)
        return;
    say_everywhere(home_assistant, &now, device_id, "");
    if (other == NULL)
        return;
    say_everywhere(home_assistant, &others, device_id, "");
    drop_other(home_assistant, other);
}

void home_assistant_set_former(struct home_assistant *home_assistant, const struct discovery_place *former) {
    home_assistant->former = *former;
}

void home_assistant_remove_former(const struct home_assistant *home_assistant, int64_t device_id) {
    if (home_assistant->former.prefix != NULL)
        say_everywhere(home_assistant, &home_assistant->former, device_id, "");
}

// --- moving from the other kind ---

enum home_assistant_move home_assistant_move(struct home_assistant *home_assistant, int64_t device_id) {
    struct other *other = find_other(home_assistant, device_id);
    struct discovery_place others = discovery_place(home_assistant->config, true);
    if (other == NULL)
        return MOVE_NONE;
    say_everywhere(home_assistant, &others, device_id, other->told ? "" : discovery_migrate);
    if (!other->told) {
        other->told = true;
        return MOVE_BEGINS;
    }
    drop_other(home_assistant, other);
    return MOVE_ENDS;
}

static bool has_own(const struct codec *codec, const struct entity *wanted) {
    struct entity own;
    for (size_t i = 0; find_own(codec, i, &own); i++)
        if (strcmp(own.component, wanted->component) == 0 && strcmp(own.object_id, wanted->object_id) == 0)
            return true;
    return false;
}

// The one entity that is not a protocol's own, and yet depends on it.
static const struct entity *battery_left(const struct config *config, const struct codec *former,
                                         const struct codec *now) {
    bool left = config_battery(config, former) != NULL && config_battery(config, now) == NULL;
    for (size_t i = 0; left && i < ENTITY_COUNT; i++)
        if (entities[i].kind == BATTERY)
            return &entities[i];
    return NULL;
}

bool home_assistant_leave_protocol(const struct home_assistant *home_assistant, int64_t device_id,
                                   const struct codec *former, const struct codec *now) {
    struct entity own;
    const struct entity *battery = former != NULL ? battery_left(home_assistant->config, former, now) : NULL;
    const char *prefix = home_assistant->config->home_assistant.prefix;
    if (home_assistant->config->home_assistant.discovery == DISCOVERY_DEVICE)
        return true; // what is announced says it
    if (battery != NULL &&
        (!bus_keeps_up(home_assistant->bus) || !publish(home_assistant, prefix, device_id, battery, "")))
        return false;
    for (size_t i = 0; find_own(former, i, &own); i++) {
        if (has_own(now, &own))
            continue;
        if (!bus_keeps_up(home_assistant->bus) || !publish(home_assistant, prefix, device_id, &own, ""))
            return false;
    }
    return true;
}

// Whether text begins with the node of a device, whose id is set; *end is behind it.
static bool read_node(const struct home_assistant *home_assistant, const char *text, int64_t *device_id,
                      const char **end) {
    char node[NODE_MAX];
    *end = text + strcspn(text, "/");
    const char *digits = memrchr(text, '_', (size_t)(*end - text));
    if (digits == NULL || sscanf(digits, "_%" SCNd64, device_id) != 1)
        return false;
    write_node(home_assistant, *device_id, node);
    return (size_t)(*end - text) == strlen(node) && memcmp(text, node, strlen(node)) == 0;
}

// The node is all that tells: {prefix}/{component}/{node}/{object_id}/config, or {prefix}/device/{node}/config.
static bool read_topic(const struct home_assistant *home_assistant, enum config_discovery discovery,
                       const char *topic, int64_t *device_id) {
    const char *component = topic_after(topic, home_assistant->config->home_assistant.prefix), *end;
    const char *node = component != NULL && *component == '/' ? strchr(component + 1, '/') : NULL;
    if (node == NULL || !home_assistant->config->home_assistant.enabled ||
        !read_node(home_assistant, node + 1, device_id, &end))
        return false;
    bool whole = strcmp(end, "/config") == 0;
    return whole == (discovery == DISCOVERY_DEVICE) &&
           (!whole || topic_after(component, "/device/") == node + 1);
}

bool home_assistant_topic_id(const struct home_assistant *home_assistant, const char *topic,
                             int64_t *device_id) {
    return read_topic(home_assistant, home_assistant->config->home_assistant.discovery, topic, device_id);
}

// A component of which nothing but the kind is said has gone.
static uint32_t read_reported(const struct mqtt_received *received) {
    json_t *config = json_loadb(received->payload, received->length, 0, NULL);
    const json_t *components = json_object_get(config, "cmps");
    uint32_t reported = 0;
    for (size_t i = 0; i < ENTITY_COUNT; i++)
        if (entities[i].field != FIELD_NONE &&
            json_object_size(json_object_get(components, entities[i].object_id)) > 1)
            reported |= home_assistant_entity_of(entities[i].field);
    json_decref(config);
    return reported;
}

bool home_assistant_found(struct home_assistant *home_assistant, const struct mqtt_received *received,
                          int64_t *device_id, uint32_t *reported) {
    enum config_discovery others = discovery_place(home_assistant->config, true).kind;
    if (received->length == 0 || !read_topic(home_assistant, others, received->topic, device_id))
        return false;
    *reported = read_reported(received);
    if (find_other(home_assistant, *device_id) != NULL || HASH_COUNT(home_assistant->others) >= OTHERS_MAX)
        return true;
    struct other *other = must_have(calloc(1, sizeof *other));
    other->device_id = *device_id;
    HASH_ADD(hh, home_assistant->others, device_id, sizeof other->device_id, other);
    return true;
}

bool home_assistant_received(const struct home_assistant *home_assistant,
                             const struct mqtt_received *received) {
    static const char online[] = "online";
    return home_assistant->config->home_assistant.enabled && received->length == sizeof online - 1 &&
           memcmp(received->payload, online, sizeof online - 1) == 0;
}

struct home_assistant *home_assistant_new(const struct config *config, const struct bus *bus) {
    struct home_assistant *home_assistant = must_have(malloc(sizeof *home_assistant));
    *home_assistant = (struct home_assistant){.config = config, .bus = bus};
    return home_assistant;
}

void home_assistant_free(struct home_assistant *home_assistant) {
    while (home_assistant->others != NULL)
        drop_other(home_assistant, home_assistant->others);
    free(home_assistant);
}

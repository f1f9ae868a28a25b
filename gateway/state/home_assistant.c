// Home Assistant's MQTT discovery; see home_assistant.h.
//
// The keys are those that Home Assistant documents for MQTT device trackers, sensors, binary sensors and
// buttons. An entity has a retained topic of its own, so that they can grow one by one as fields appear.
#include "gateway/state/home_assistant.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "schema/schemas.h"

#define DISCOVERY_TOPIC_MAX 2048
#define NODE_MAX            640 // a prefix of 128 characters, a device id

struct home_assistant {
    const struct config *config;
    const struct bus *bus;
};

// What an entity shows or does, and so when a device has it.
enum entity_kind {
    TRACKER,   // telemetry/position, unless telemetry is off
    CONNECTED, // always
    VALUE,     // telemetry of a field that was reported
    ALARM,     // whether the last message raises the alarm: for protocols that have it. Not from telemetry,
               // where an alarm that came once stays
    COMMAND,   // for protocols that have it
};

static const struct entity {
    enum entity_kind kind;
    enum field field;
    const char *command;
    const char *component;
    const char *object_id;
    const char *name;                                  // beside the device's; NULL: the device's alone
    const char *device_class, *unit, *category, *icon; // or NULL
} entities[] = {
    {TRACKER, .component = "device_tracker", .object_id = "position"},
    {CONNECTED, .component = "binary_sensor", .object_id = "connected", .name = "Connected",
     .device_class = "connectivity", .category = "diagnostic"},
    {VALUE, FIELD_BATTERY_VOLTAGE, .component = "sensor", .object_id = "battery_voltage",
     .name = "Battery voltage", .device_class = "voltage", .unit = "V", .category = "diagnostic"},
    {VALUE, FIELD_EXTERNAL_POWERSOURCE_VOLTAGE, .component = "sensor",
     .object_id = "external_powersource_voltage", .name = "External power voltage", .device_class = "voltage",
     .unit = "V", .category = "diagnostic"},
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
    {ALARM, FIELD_ALARM_EVENT, .component = "binary_sensor", .object_id = "alarm_event", .name = "Alarm",
     .device_class = "safety"},
    {ALARM, FIELD_BATTERY_LOW_ALARM, .component = "binary_sensor", .object_id = "battery_low_alarm",
     .name = "Battery low", .device_class = "battery"},
    {ALARM, FIELD_GEOFENCE_IN_ALARM, .component = "binary_sensor", .object_id = "geofence_in_alarm",
     .name = "Geofence entered", .icon = "mdi:map-marker-check"},
    {ALARM, FIELD_GEOFENCE_OUT_ALARM, .component = "binary_sensor", .object_id = "geofence_out_alarm",
     .name = "Geofence left", .icon = "mdi:map-marker-remove"},
    {COMMAND, .command = "where?", .component = "button", .object_id = "where", .name = "Ask for position",
     .icon = "mdi:crosshairs-gps"},
    {COMMAND, .command = "reboot", .component = "button", .object_id = "reboot", .name = "Restart",
     .device_class = "restart", .category = "config"},
};
#define ENTITY_COUNT (sizeof entities / sizeof entities[0])
_Static_assert(ENTITY_COUNT <= 32, "a bit each in reported and announced");

static uint32_t bit_of(const struct entity *entity) {
    return UINT32_C(1) << (entity - entities);
}

uint32_t home_assistant_entity_of(enum field field) {
    for (size_t i = 0; i < ENTITY_COUNT; i++)
        if (entities[i].kind == VALUE && entities[i].field == field)
            return bit_of(&entities[i]);
    return 0;
}

// --- which entities a device has ---

static bool has_command(const struct codec *codec, const char *name) {
    const json_t *commands = codec != NULL ? schema_of_commands(codec->name) : NULL;
    return json_object_get(json_object_get(commands, "$defs"), name) != NULL;
}

static bool has_alarm(const struct codec *codec, enum field field) {
    const enum field *alarm = codec != NULL ? codec->alarms : NULL;
    while (alarm != NULL && *alarm != FIELD_NONE && *alarm != field)
        alarm++;
    return alarm != NULL && *alarm == field;
}

static bool has_entity(const struct home_assistant *home_assistant,
                       const struct home_assistant_device *device, const struct entity *entity) {
    switch (entity->kind) {
    case TRACKER:
        return home_assistant->config->telemetry != TELEMETRY_OFF;
    case CONNECTED:
        return true;
    case VALUE:
        return (device->reported & bit_of(entity)) != 0;
    case ALARM:
        return has_alarm(device->codec, entity->field);
    case COMMAND:
        return has_command(device->codec, entity->command);
    }
    return false;
}

// --- topics ---

// Names the device among all gateways' on the broker, in the letters that Home Assistant allows in topics.
static void write_node(const struct home_assistant *home_assistant, int64_t device_id, char *node) {
    snprintf(node, NODE_MAX, "%s_%lld", bus_prefix(home_assistant->bus), (long long)device_id);
    for (char *c = node; *c != '\0'; c++)
        if (strchr("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-", *c) == NULL)
            *c = '_';
}

static uint64_t publish(const struct home_assistant *home_assistant, int64_t device_id,
                        const struct entity *entity, const char *text, size_t length) {
    char topic[DISCOVERY_TOPIC_MAX], node[NODE_MAX];
    write_node(home_assistant, device_id, node);
    snprintf(topic, sizeof topic, "%s/%s/%s/%s/config", home_assistant->config->home_assistant.prefix,
             entity->component, node, entity->object_id);
    return bus_publish_text(home_assistant->bus, topic, text, length, MQTT_RETAINED);
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

static void describe_device(json_t *config, const struct home_assistant_device *device, const char *node) {
    const char *model = device->codec != NULL ? device->codec->title : NULL;
    json_object_set_new(config, "device",
                        json_pack("{s:[s], s:s, s:s, s:s*}", "identifiers", node, "name", device->name,
                                  "serial_number", device->ident, "model", model));
    json_object_set_new(config, "origin",
                        json_pack("{s:s, s:s}", "name", "trackbus", "sw_version", TRACKBUS_VERSION));
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
    if (field_table[field].type == FIELD_BOOLEAN)
        describe_truth(config);
    else
        set_text(config, "state_class", "measurement");
}

static void describe_alarm(json_t *config, const struct home_assistant *home_assistant,
                           const struct home_assistant_device *device, enum field field) {
    if (home_assistant->config->on_devices)
        set_topic(config, home_assistant, "state_topic", TOPIC_MESSAGE TOPIC_DEVICES "%lld",
                  (long long)device->id);
    else
        set_topic(config, home_assistant, "state_topic", TOPIC_MESSAGE TOPIC_CHANNELS "+/%s", device->ident);
    json_object_set_new(
        config, "value_template",
        json_sprintf("{{ value_json['%s'] | default(false) | lower }}", field_table[field].key));
    describe_truth(config);
}

static void describe_command(json_t *config, const struct home_assistant *home_assistant,
                             const struct home_assistant_device *device, const char *command) {
    set_topic(config, home_assistant, "command_topic", TOPIC_COMMAND TOPIC_DEVICES "%lld",
              (long long)device->id);
    json_object_set_new(config, "payload_press", json_sprintf("{\"name\":\"%s\"}", command));
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
    case VALUE:
        describe_value(config, home_assistant, device, entity->field);
        break;
    case ALARM:
        describe_alarm(config, home_assistant, device, entity->field);
        break;
    case COMMAND:
        describe_command(config, home_assistant, device, entity->command);
        break;
    }
}

static json_t *describe(const struct home_assistant *home_assistant,
                        const struct home_assistant_device *device, const struct entity *entity) {
    char node[NODE_MAX];
    write_node(home_assistant, device->id, node);
    json_t *config = json_pack("{s:o, s:s?, s:s*, s:s*, s:s*, s:s*, s:i}", "unique_id",
                               json_sprintf("%s_%s", node, entity->object_id), "name", entity->name,
                               "device_class", entity->device_class, "unit_of_measurement", entity->unit,
                               "entity_category", entity->category, "icon", entity->icon, "qos", 1);
    describe_device(must_have(config), device, node);
    describe_availability(config, home_assistant);
    describe_topics(config, home_assistant, device, entity);
    return config;
}

// --- announcing ---

static bool announce(const struct home_assistant *home_assistant, const struct home_assistant_device *device,
                     const struct entity *entity) {
    json_t *config = describe(home_assistant, device, entity);
    char *text = text_of_json(config, TEXT_VALUE_DIGITS);
    bool published = publish(home_assistant, device->id, entity, text, strlen(text)) != 0;
    free(text);
    json_decref(config);
    return published;
}

bool home_assistant_announce(const struct home_assistant *home_assistant,
                             struct home_assistant_device *device) {
    for (size_t i = 0; i < ENTITY_COUNT; i++) {
        uint32_t bit = bit_of(&entities[i]);
        if ((device->announced & bit) != 0 || !has_entity(home_assistant, device, &entities[i]))
            continue;
        if (!bus_keeps_up(home_assistant->bus) || !announce(home_assistant, device, &entities[i]))
            return false;
        device->announced |= bit;
    }
    return true;
}

void home_assistant_remove(const struct home_assistant *home_assistant, int64_t device_id) {
    for (size_t i = 0; home_assistant->config->home_assistant.enabled && i < ENTITY_COUNT; i++)
        publish(home_assistant, device_id, &entities[i], "", 0);
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
    free(home_assistant);
}

// The gateway itself as a device of Home Assistant; see home_assistant_gateway.h. What its entities read stands in the
// instance's own topics.
#include "gateway/state/home_assistant_gateway.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"

#define ONLINE "{{ value_json.state }}"

static const struct entity {
    const char *component, *object_id, *name;
    const char *rest; // of the topic, behind the instance's own
    const char *template;
    const char *device_class, *unit, *state_class, *icon; // or NULL
} entities[] = {
    {"binary_sensor", "link", "Connected to the broker", "", ONLINE, .device_class = "connectivity"},
    {"sensor", "connections", "Connections", TOPIC_METRICS,
     "{{ value_json.channels | sum(attribute='connections') }}", .state_class = "measurement",
     .icon = "mdi:lan-connect"},
    {"sensor", "messages", "Messages per second", TOPIC_METRICS, "{{ value_json.messages_per_second }}",
     .unit = "msg/s", .state_class = "measurement", .icon = "mdi:message-fast"},
    {"sensor", "outbox", "Messages that wait", TOPIC_METRICS, "{{ value_json.outbox_messages }}",
     .state_class = "measurement", .icon = "mdi:tray-full"},
    {"sensor", "version", "Version", "", "{{ value_json.version | default(this.state) }}",
     .icon = "mdi:tag-outline"},
};
#define ENTITY_COUNT (sizeof entities / sizeof entities[0])

struct home_assistant_gateway {
    const struct config *config;
    const struct bus *bus;
    struct publisher *publisher;
    struct guard *guard;
    size_t left;   // topics at the end of the list that are still to be published
    bool found;    // the broker retains the other kind
    bool told;     // and Home Assistant was told that it moves
    int64_t from;  // when it may be announced, by clock_ticks()
    uint64_t last; // number in the outbox of what was published last
};

static void write_node(const char *prefix, const char *client_id, char node[HOME_ASSISTANT_GATEWAY_MAX]) {
    snprintf(node, HOME_ASSISTANT_GATEWAY_MAX, "%s_gateway_%s", prefix, client_id);
    discovery_clean(node);
}

const char *home_assistant_gateway_node(const struct bus *bus, char node[HOME_ASSISTANT_GATEWAY_MAX]) {
    write_node(bus_prefix(bus), bus_client_id(bus), node);
    return node;
}

// --- topics ---

static size_t count_topics(enum config_discovery discovery) {
    return discovery == DISCOVERY_DEVICE ? 1 : ENTITY_COUNT;
}

// Topic number index of those.
static void write_topic(const struct discovery_place *place, const char *node, size_t index,
                        char topic[DISCOVERY_TOPIC_MAX]) {
    if (place->kind == DISCOVERY_DEVICE)
        snprintf(topic, DISCOVERY_TOPIC_MAX, "%s/device/%s/config", place->prefix, node);
    else
        snprintf(topic, DISCOVERY_TOPIC_MAX, "%s/%s/%s_%s/config", place->prefix, entities[index].component,
                 node, entities[index].object_id);
}

char *home_assistant_gateway_found_filter(const struct config *config) {
    struct discovery_place place = discovery_place(config, true);
    char node[HOME_ASSISTANT_GATEWAY_MAX], topic[DISCOVERY_TOPIC_MAX];
    write_node(config->mqtt.topic_prefix, config->mqtt.client_id, node);
    write_topic(&place, node, 0, topic);
    return must_have(strdup(topic));
}

static void say_everywhere(const struct bus *bus, const struct discovery_place *place, const char *node,
                           const char *text) {
    for (size_t i = 0; i < count_topics(place->kind); i++) {
        char topic[DISCOVERY_TOPIC_MAX];
        write_topic(place, node, i, topic);
        bus_publish_text(bus, topic, text, strlen(text), MQTT_RETAINED);
    }
}

void home_assistant_gateway_remove(const struct bus *bus, const struct discovery_place *place,
                                   const char *node) {
    say_everywhere(bus, place, node, "");
}

// --- payloads ---

static json_t *topic_of(const struct bus *bus, const char *rest) {
    return json_sprintf("%s/" TOPIC_STATE TOPIC_INSTANCES "%s%s", bus_prefix(bus), bus_client_id(bus), rest);
}

static json_t *device_of(const struct bus *bus, const char *node) {
    return json_pack("{s:[s], s:o, s:s, s:s, s:s}", "identifiers", node, "name",
                     json_sprintf("trackbus (%s)", bus_client_id(bus)), "manufacturer", "trackbus", "model",
                     "Gateway for trackers", "sw_version", TRACKBUS_VERSION);
}

static json_t *describe_entity(const struct bus *bus, const struct entity *entity, const char *node) {
    json_t *config =
        json_pack("{s:o, s:s, s:o, s:s, s:s, s:s*, s:s*, s:s*, s:s*, s:i}", "unique_id",
                  json_sprintf("%s_%s", node, entity->object_id), "name", entity->name, "state_topic",
                  topic_of(bus, entity->rest), "value_template", entity->template, "entity_category",
                  "diagnostic", "device_class", entity->device_class, "unit_of_measurement", entity->unit,
                  "state_class", entity->state_class, "icon", entity->icon, "qos", 1);
    if (strcmp(entity->component, "binary_sensor") == 0) { // which says itself that it is away
        json_object_set_new(must_have(config), "payload_on", json_string("online"));
        json_object_set_new(config, "payload_off", json_string("offline"));
    } else {
        json_object_set_new(must_have(config), "availability_topic", topic_of(bus, ""));
        json_object_set_new(config, "availability_template", json_string(ONLINE));
    }
    return config;
}

static json_t *components_of(const struct bus *bus, const char *node) {
    json_t *components = must_have(json_object());
    for (size_t i = 0; i < ENTITY_COUNT; i++) {
        json_t *config = describe_entity(bus, &entities[i], node);
        json_object_set_new(config, "p", json_string(entities[i].component));
        json_object_set_new(components, entities[i].object_id, config);
    }
    return components;
}

// What stands on topic number index.
static json_t *describe(const struct home_assistant_gateway *gateway, size_t index, const char *node) {
    const struct bus *bus = gateway->bus;
    bool whole = gateway->config->home_assistant.discovery == DISCOVERY_DEVICE;
    json_t *config = whole ? must_have(json_object()) : describe_entity(bus, &entities[index], node);
    json_t *origin = json_pack("{s:s, s:s}", "name", "trackbus", "sw_version", TRACKBUS_VERSION);
    json_object_set_new(config, whole ? "dev" : "device", device_of(bus, node));
    json_object_set_new(config, whole ? "o" : "origin", origin);
    if (whole)
        json_object_set_new(config, "cmps", components_of(bus, node));
    return config;
}

// --- announcing ---

// Whether the broker, or the outbox, has it.
static bool publish_topic(const struct home_assistant_gateway *gateway, size_t index) {
    struct discovery_place place = discovery_place(gateway->config, false);
    char node[HOME_ASSISTANT_GATEWAY_MAX], topic[DISCOVERY_TOPIC_MAX];
    home_assistant_gateway_node(gateway->bus, node);
    json_t *json = describe(gateway, index, node);
    char *text = text_of_json(json, TEXT_VALUE_DIGITS);
    write_topic(&place, node, index, topic);
    uint64_t number = bus_publish_text(gateway->bus, topic, text, strlen(text), MQTT_RETAINED);
    free(text);
    json_decref(json);
    return number != 0;
}

static void say_to_others(const struct home_assistant_gateway *gateway, const char *text) {
    struct discovery_place place = discovery_place(gateway->config, true);
    char node[HOME_ASSISTANT_GATEWAY_MAX];
    say_everywhere(gateway->bus, &place, home_assistant_gateway_node(gateway->bus, node), text);
}

static void move_on(struct home_assistant_gateway *gateway) {
    say_to_others(gateway, gateway->told ? "" : discovery_migrate);
    gateway->found = !gateway->told;
    gateway->told = gateway->found;
    if (gateway->found)
        return;
    gateway->from = clock_ticks() + DISCOVERY_SETTLES;
    gateway->left = count_topics(gateway->config->home_assistant.discovery);
}

static void publish_some(struct home_assistant_gateway *gateway) {
    size_t count = count_topics(gateway->config->home_assistant.discovery);
    if (gateway->found)
        move_on(gateway);
    bool may = !gateway->found && gateway->from <= clock_ticks();
    while (may && gateway->left > 0 && bus_keeps_up(gateway->bus) &&
           publish_topic(gateway, count - gateway->left))
        gateway->left--;
}

// Each time once the broker has what was published before: not every broker keeps the order of two writes to one topic.
static bool publish(void *context) {
    struct home_assistant_gateway *gateway = context;
    if (gateway->left == 0 && !gateway->found)
        return true;
    if (!bus_keeps_up(gateway->bus) || !bus_has_taken(gateway->bus, gateway->last))
        return false;
    publish_some(gateway);
    gateway->last = bus_last_number(gateway->bus);
    return gateway->left == 0 && !gateway->found;
}

void home_assistant_gateway_announce(struct home_assistant_gateway *gateway) {
    if (!gateway->config->home_assistant.enabled || gateway->config->hand_over)
        return;
    gateway->left = count_topics(gateway->config->home_assistant.discovery);
    publisher_wake(gateway->publisher);
}

// --- what has come ---

static bool find_topic(const struct home_assistant_gateway *gateway, bool other, const char *topic,
                       size_t *index) {
    struct discovery_place place = discovery_place(gateway->config, other);
    char node[HOME_ASSISTANT_GATEWAY_MAX], ours[DISCOVERY_TOPIC_MAX];
    home_assistant_gateway_node(gateway->bus, node);
    for (*index = 0; *index < count_topics(place.kind); (*index)++) {
        write_topic(&place, node, *index, ours);
        if (strcmp(ours, topic) == 0)
            return true;
    }
    return false;
}

static bool is_right(const struct home_assistant_gateway *gateway, size_t index,
                     const struct mqtt_received *received) {
    char node[HOME_ASSISTANT_GATEWAY_MAX];
    json_t *json = json_loadb(received->payload, received->length, 0, NULL);
    json_t *ours = describe(gateway, index, home_assistant_gateway_node(gateway->bus, node));
    bool right = json_equal(json, ours);
    json_decref(ours);
    json_decref(json);
    return right;
}

static void note_wrong(const struct home_assistant_gateway *gateway) {
    char *topic = text_format(TOPIC_INSTANCES "%s" TOPIC_DISCOVERY, bus_client_id(gateway->bus));
    guard_wrong(gateway->guard, topic);
    free(topic);
}

bool home_assistant_gateway_received(struct home_assistant_gateway *gateway,
                                     const struct mqtt_received *received) {
    size_t index;
    if (!gateway->config->home_assistant.enabled || gateway->config->hand_over)
        return false;
    if (find_topic(gateway, false, received->topic, &index)) {
        if (!received->retain && gateway->left == 0 && !is_right(gateway, index, received))
            note_wrong(gateway);
        return true;
    }
    if (!find_topic(gateway, true, received->topic, &index))
        return false;
    if (received->retain && received->length > 0) {
        gateway->found = true;
        publisher_wake(gateway->publisher);
    }
    return true;
}

struct home_assistant_gateway *home_assistant_gateway_new(const struct config *config, const struct bus *bus,
                                                          struct publisher *publisher, struct guard *guard) {
    struct home_assistant_gateway *gateway = must_have(calloc(1, sizeof *gateway));
    gateway->config = config;
    gateway->bus = bus;
    gateway->publisher = publisher;
    gateway->guard = guard;
    publisher_add(publisher, publish, gateway);
    return gateway;
}

void home_assistant_gateway_free(struct home_assistant_gateway *gateway) {
    free(gateway);
}

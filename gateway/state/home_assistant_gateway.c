// The gateway itself as a device of Home Assistant; see home_assistant_gateway.h. What its entities read stands in the
// instance's own topics.
#include "gateway/state/home_assistant_gateway.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"

#define DISCOVERY_TOPIC_MAX 2048
#define ONLINE              "{{ value_json.state }}"

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
    size_t left; // entities at the end of the list that are still to be announced
};

const char *home_assistant_gateway_node(const struct bus *bus, char node[HOME_ASSISTANT_GATEWAY_MAX]) {
    snprintf(node, HOME_ASSISTANT_GATEWAY_MAX, "%s_gateway_%s", bus_prefix(bus), bus_client_id(bus));
    for (char *c = node; *c != '\0'; c++)
        if (strchr("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-", *c) == NULL)
            *c = '_';
    return node;
}

static json_t *topic_of(const struct bus *bus, const char *rest) {
    return json_sprintf("%s/" TOPIC_STATE TOPIC_INSTANCES "%s%s", bus_prefix(bus), bus_client_id(bus), rest);
}

static json_t *device_of(const struct bus *bus, const char *node) {
    return json_pack("{s:[s], s:o, s:s, s:s, s:s}", "identifiers", node, "name",
                     json_sprintf("trackbus (%s)", bus_client_id(bus)), "manufacturer", "trackbus", "model",
                     "Gateway for trackers", "sw_version", TRACKBUS_VERSION);
}

static json_t *describe(const struct bus *bus, const struct entity *entity, const char *node) {
    json_t *config =
        json_pack("{s:o, s:s, s:o, s:s, s:s, s:s*, s:s*, s:s*, s:s*, s:o, s:{s:s, s:s}, s:i}", "unique_id",
                  json_sprintf("%s_%s", node, entity->object_id), "name", entity->name, "state_topic",
                  topic_of(bus, entity->rest), "value_template", entity->template, "entity_category",
                  "diagnostic", "device_class", entity->device_class, "unit_of_measurement", entity->unit,
                  "state_class", entity->state_class, "icon", entity->icon, "device", device_of(bus, node),
                  "origin", "name", "trackbus", "sw_version", TRACKBUS_VERSION, "qos", 1);
    if (strcmp(entity->component, "binary_sensor") == 0) { // which says itself that it is away
        json_object_set_new(must_have(config), "payload_on", json_string("online"));
        json_object_set_new(config, "payload_off", json_string("offline"));
    } else {
        json_object_set_new(must_have(config), "availability_topic", topic_of(bus, ""));
        json_object_set_new(config, "availability_template", json_string(ONLINE));
    }
    return config;
}

// Whether the broker, or the outbox, has it.
static bool publish_entity(const struct home_assistant_gateway *gateway, const struct entity *entity) {
    char node[HOME_ASSISTANT_GATEWAY_MAX], topic[DISCOVERY_TOPIC_MAX];
    home_assistant_gateway_node(gateway->bus, node);
    json_t *json = describe(gateway->bus, entity, node);
    char *text = text_of_json(json, TEXT_VALUE_DIGITS);
    snprintf(topic, sizeof topic, "%s/%s/%s_%s/config", gateway->config->home_assistant.prefix,
             entity->component, node, entity->object_id);
    uint64_t number = bus_publish_text(gateway->bus, topic, text, strlen(text), MQTT_RETAINED);
    free(text);
    json_decref(json);
    return number != 0;
}

static bool publish(void *context) {
    struct home_assistant_gateway *gateway = context;
    while (gateway->left > 0 && bus_keeps_up(gateway->bus) &&
           publish_entity(gateway, &entities[ENTITY_COUNT - gateway->left]))
        gateway->left--;
    return gateway->left == 0;
}

void home_assistant_gateway_announce(struct home_assistant_gateway *gateway) {
    if (!gateway->config->home_assistant.enabled)
        return;
    gateway->left = ENTITY_COUNT;
    publisher_wake(gateway->publisher);
}

struct home_assistant_gateway *home_assistant_gateway_new(const struct config *config, const struct bus *bus,
                                                          struct publisher *publisher) {
    struct home_assistant_gateway *gateway = must_have(calloc(1, sizeof *gateway));
    gateway->config = config;
    gateway->bus = bus;
    gateway->publisher = publisher;
    publisher_add(publisher, publish, gateway);
    return gateway;
}

void home_assistant_gateway_free(struct home_assistant_gateway *gateway) {
    free(gateway);
}

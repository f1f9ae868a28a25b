// Messages as libmosquitto and MQTT 5 have them; see packet.h.
#include "gateway/broker/packet.h"

#include <mqtt_protocol.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define INSTANCE "instance" // user property of a signed message

mosquitto_property *packet_properties(const struct mqtt_publish *publish, const char *instance) {
    mosquitto_property *properties = NULL;
    if (publish->response_topic != NULL)
        mosquitto_property_add_string(&properties, MQTT_PROP_RESPONSE_TOPIC, publish->response_topic);
    if (publish->correlation != NULL)
        mosquitto_property_add_binary(&properties, MQTT_PROP_CORRELATION_DATA, publish->correlation,
                                      (uint16_t)publish->correlation_length);
    if (publish->expiry > 0)
        mosquitto_property_add_int32(&properties, MQTT_PROP_MESSAGE_EXPIRY_INTERVAL, publish->expiry);
    if (publish->retain == MQTT_RETAINED_SIGNED)
        mosquitto_property_add_string_pair(&properties, MQTT_PROP_USER_PROPERTY, INSTANCE, instance);
    return properties;
}

// Bytes of a length as MQTT writes it: seven bits each.
static size_t length_size(size_t length) {
    size_t size = 1;
    while (length >>= 7)
        size++;
    return size;
}

static size_t properties_size(const struct mqtt_publish *publish, const char *instance) {
    size_t size = 0;
    if (publish->response_topic != NULL)
        size += 1 + 2 + strlen(publish->response_topic);
    if (publish->correlation != NULL)
        size += 1 + 2 + publish->correlation_length;
    if (publish->expiry > 0)
        size += 1 + 4;
    if (publish->retain == MQTT_RETAINED_SIGNED)
        size += 1 + 2 + strlen(INSTANCE) + 2 + strlen(instance);
    return size;
}

size_t publish_size(const struct mqtt_publish *publish, const char *instance) {
    size_t properties = properties_size(publish, instance);
    size_t identifier = publish->qos > 0 ? 2 : 0;
    size_t rest =
        2 + strlen(publish->topic) + identifier + length_size(properties) + properties + publish->length;
    return 1 + length_size(rest) + rest;
}

static char *read_instance(const mosquitto_property *properties) {
    char *name = NULL, *value = NULL;
    for (bool again = false; properties != NULL; again = true) {
        properties =
            mosquitto_property_read_string_pair(properties, MQTT_PROP_USER_PROPERTY, &name, &value, again);
        bool found = properties != NULL && strcmp(name, INSTANCE) == 0;
        free(name);
        if (found)
            return value;
        free(value);
        name = value = NULL;
    }
    return NULL;
}

struct packet_extras packet_read_extras(const mosquitto_property *properties) {
    struct packet_extras extras = {.instance = read_instance(properties)};
    mosquitto_property_read_string(properties, MQTT_PROP_RESPONSE_TOPIC, &extras.response_topic, false);
    mosquitto_property_read_binary(properties, MQTT_PROP_CORRELATION_DATA, &extras.correlation,
                                   &extras.correlation_length, false);
    return extras;
}

void packet_free_extras(struct packet_extras *extras) {
    free(extras->instance);
    free(extras->response_topic);
    free(extras->correlation);
}

// 0x80 and 0x83 say nothing of the message: Mosquitto says the latter of one that is too large, others when
// they are in trouble themselves.
enum mqtt_answer packet_answer(int reason) {
    if (reason < 0x80)
        return MQTT_TAKEN;
    switch (reason) {
    case MQTT_RC_QUOTA_EXCEEDED:
    case MQTT_RC_PACKET_ID_IN_USE:
        return MQTT_TAKEN_LATER;
    case MQTT_RC_UNSPECIFIED:
    case MQTT_RC_IMPLEMENTATION_SPECIFIC:
        return MQTT_NOT_TAKEN;
    default:
        return MQTT_NEVER_TAKEN;
    }
}

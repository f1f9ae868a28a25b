// Messages as libmosquitto and MQTT 5 have them; see packet.h.
#include "gateway/broker/packet.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/libmosquitto.h"
#include "schema/decimal.h"

// User properties.
#define INSTANCE  "instance"  // of a signed message
#define TIMESTAMP "timestamp" // when it was measured, in Unix seconds

// "1795243066.412"; returns the length.
static size_t write_time(int64_t time, char text[DECIMAL_TEXT_MAX]) {
    return decimal_write((struct decimal){.mantissa = time, .places = 6}, text);
}

static void add_time(mosquitto_property **properties, int64_t time) {
    char text[DECIMAL_TEXT_MAX];
    write_time(time, text);
    mosquitto_property_add_string_pair(properties, MQTT_PROP_USER_PROPERTY, TIMESTAMP, text);
}

static mosquitto_property *make_properties(const struct mqtt_publish *publish, const char *instance) {
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
    if (publish->measured != 0)
        add_time(&properties, publish->measured);
    return properties;
}

static bool has_same(const struct mqtt_publish *one, const struct mqtt_publish *other) {
    return one->measured == other->measured && one->expiry == other->expiry && one->retain == other->retain;
}

void packet_forget(struct packet_last *last) {
    mosquitto_property_free_all(&last->properties);
    *last = (struct packet_last){.properties = NULL};
}

const mosquitto_property *packet_properties(struct packet_last *last, const struct mqtt_publish *publish,
                                            const char *instance) {
    bool texts = publish->response_topic != NULL || publish->correlation != NULL ||
                 last->publish.response_topic != NULL || last->publish.correlation != NULL;
    if (!texts && has_same(publish, &last->publish))
        return last->properties;
    packet_forget(last);
    last->publish = *publish;
    last->properties = make_properties(publish, instance);
    return last->properties;
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
    if (publish->measured != 0)
        size += 1 + 2 + strlen(TIMESTAMP) + 2 + write_time(publish->measured, (char[DECIMAL_TEXT_MAX]){""});
    return size;
}

size_t publish_size(const struct mqtt_publish *publish, const char *instance) {
    size_t properties = properties_size(publish, instance);
    size_t identifier = publish->qos > 0 ? 2 : 0;
    size_t rest =
        2 + strlen(publish->topic) + identifier + length_size(properties) + properties + publish->length;
    return 1 + length_size(rest) + rest;
}

// 0 for what is no time, or is to come: others may write what they like.
static int64_t read_time(const char *text) {
    struct decimal time;
    if (!decimal_parse(text, strlen(text), &time) || !decimal_in_range(time, 1, clock_now() / 1000000))
        return 0;
    return decimal_at(time, 6);
}

// Of several with one name the first counts.
static void read_user_properties(const mosquitto_property *properties, struct packet_extras *extras) {
    char *name = NULL, *value = NULL;
    for (bool again = false; properties != NULL; again = true) {
        properties =
            mosquitto_property_read_string_pair(properties, MQTT_PROP_USER_PROPERTY, &name, &value, again);
        bool signs = properties != NULL && extras->instance == NULL && strcmp(name, INSTANCE) == 0;
        if (properties != NULL && extras->measured == 0 && strcmp(name, TIMESTAMP) == 0)
            extras->measured = read_time(value);
        if (signs)
            extras->instance = value;
        else
            free(value);
        free(name);
        name = value = NULL;
    }
}

struct packet_extras packet_read_extras(const mosquitto_property *properties) {
    struct packet_extras extras = {.instance = NULL};
    read_user_properties(properties, &extras);
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

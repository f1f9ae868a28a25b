// What a broker says of itself; see broker_limits.h.
#include "gateway/broker/broker_limits.h"

#include <stdio.h>
#include <stdlib.h>

#include "gateway/base/libmosquitto.h"
#include "gateway/base/memory.h"

#define RECEIVE_MAXIMUM 65535

struct broker_limits broker_limits_none(void) {
    return (struct broker_limits){
        .receive_maximum = RECEIVE_MAXIMUM, .qos = 2, .retain = true, .wildcards = true};
}

static void read_flag(const mosquitto_property *properties, int identifier, bool *flag) {
    uint8_t value;
    if (mosquitto_property_read_byte(properties, identifier, &value, false) != NULL)
        *flag = value != 0;
}

struct broker_limits broker_limits_read(const mosquitto_property *properties) {
    struct broker_limits limits = broker_limits_none();
    mosquitto_property_read_int32(properties, MQTT_PROP_MAXIMUM_PACKET_SIZE, &limits.packet_size, false);
    mosquitto_property_read_int16(properties, MQTT_PROP_RECEIVE_MAXIMUM, &limits.receive_maximum, false);
    mosquitto_property_read_int16(properties, MQTT_PROP_SERVER_KEEP_ALIVE, &limits.keep_alive, false);
    mosquitto_property_read_byte(properties, MQTT_PROP_MAXIMUM_QOS, &limits.qos, false);
    read_flag(properties, MQTT_PROP_RETAIN_AVAILABLE, &limits.retain);
    read_flag(properties, MQTT_PROP_WILDCARD_SUB_AVAILABLE, &limits.wildcards);
    if (limits.receive_maximum == 0)
        limits.receive_maximum = RECEIVE_MAXIMUM; // which the protocol does not allow
    return limits;
}

char *broker_limits_describe(const struct broker_limits *limits) {
    char *text = NULL;
    size_t length = 0;
    FILE *stream = must_have(open_memstream(&text, &length));
    if (!limits->retain)
        fputs("; it retains nothing: who subscribes later sees no state, Home Assistant finds no devices, "
              "and other instances do not see the commands that wait",
              stream);
    if (limits->qos == 0)
        fputs("; it takes QoS 0 only: messages that are under way when a connection breaks are lost", stream);
    if (!limits->wildcards)
        fputs("; it takes no wildcards in subscriptions: no commands arrive", stream);
    fclose(stream);
    if (length == 0) {
        free(text);
        return NULL;
    }
    return text;
}

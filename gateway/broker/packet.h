// Messages as libmosquitto and MQTT 5 have them: properties, and the size on the wire.
#pragma once

#include <mosquitto.h>
#include <stddef.h>

#include "gateway/broker/mqtt.h"

// Returns the properties of a publish (MQTT 5), for the caller to free; NULL: none. instance signs it, when it
// is to be signed.
mosquitto_property *packet_properties(const struct mqtt_publish *publish, const char *instance);

// Bytes of the PUBLISH packet in MQTT 5.
size_t publish_size(const struct mqtt_publish *publish, const char *instance);

// What a message says besides its text.
struct packet_extras {
    char *instance, *response_topic;
    void *correlation;
    uint16_t correlation_length;
};

struct packet_extras packet_read_extras(const mosquitto_property *properties);
void packet_free_extras(struct packet_extras *extras);

// What a broker says of a message, by its reason code.
enum mqtt_answer packet_answer(int reason);

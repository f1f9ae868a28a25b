// Messages as libmosquitto and MQTT 5 have them: properties, and the size on the wire.
#pragma once

#include <mosquitto.h>
#include <stddef.h>

#include "gateway/broker/mqtt.h"

// The properties that were made last. All that is published of a report has the same, which are made once.
// Begins all zero.
struct packet_last {
    struct mqtt_publish publish; // what they are of; its pointers are not followed
    mosquitto_property *properties;
};

// Returns the properties of a publish (MQTT 5), which are last's, and good until the next call; NULL: none. instance
// signs it, when it is to be signed.
const mosquitto_property *packet_properties(struct packet_last *last, const struct mqtt_publish *publish,
                                            const char *instance);
void packet_forget(struct packet_last *last);

// Bytes of the PUBLISH packet in MQTT 5.
size_t publish_size(const struct mqtt_publish *publish, const char *instance);

// What a message says besides its text.
struct packet_extras {
    char *instance, *response_topic;
    int64_t measured; // microseconds since 1970, not after now; 0: it does not say
    void *correlation;
    uint16_t correlation_length;
};

struct packet_extras packet_read_extras(const mosquitto_property *properties);
void packet_free_extras(struct packet_extras *extras);

// What a broker says of a message, by its reason code.
enum mqtt_answer packet_answer(int reason);

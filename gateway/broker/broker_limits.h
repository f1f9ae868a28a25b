// What a broker says of itself in its answer to CONNECT (MQTT 5): what it takes, and what it can do.
#pragma once

#include <mosquitto.h>
#include <stdbool.h>
#include <stdint.h>

struct broker_limits {
    uint32_t packet_size;     // of the largest packet, in bytes; 0: no limit
    uint16_t receive_maximum; // publishes of QoS 1 that may be unacknowledged
    uint16_t keep_alive;      // seconds that the broker asks for; 0: ours
    uint8_t qos;              // the highest
    bool retain, wildcards;
};

// Of a broker that says nothing.
struct broker_limits broker_limits_none(void);

struct broker_limits broker_limits_read(const mosquitto_property *properties);

// Returns what does not work with the broker, as a text for the log, for the caller to free; NULL: all does.
char *broker_limits_describe(const struct broker_limits *limits);

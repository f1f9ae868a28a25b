// A client of libmosquitto for one attempt to connect: how it is set up, and the connecting, which blocks.
#pragma once

#include <mosquitto.h>
#include <stdbool.h>

#include "gateway/broker/link_cause.h"
#include "gateway/broker/mqtt.h"
#include "gateway/config/config.h"

struct link_attempt {
    const struct config *config;
    struct broker_address address;
    int version; // of MQTT
    enum mqtt_session session;
    const char *will_topic, *will_payload; // or NULL
    bool will_retained;
    int will_qos;
    bool probe; // find out first whether the address answers in time: there are others
    void *context;
};

// Returns the client; *result is a result of libmosquitto.
struct mosquitto *link_client_new(const struct link_attempt *attempt, int *result);

// Blocks until the network is connected or not; returns a result of libmosquitto. cause is written when more is
// known of a failure. For a thread of its own.
int link_client_connect(struct mosquitto *client, const struct link_attempt *attempt, char cause[CAUSE_MAX]);

// When retained state is published: of the instance, the channels and the devices. State is not put into the
// outbox while that is behind: what is due waits here, and only its last value goes out.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct channel;
struct gateway;
struct mqtt_received;

struct state_reader;

struct state {
    uv_timer_t timer;              // runs while something is due
    struct state_leaving *leaving; // devices of which what stands retained is being taken away
    size_t unremoved;              // of these: all of it still does
    struct state_reader *reader;   // or NULL
    bool answered;                 // it is known what the broker retains from earlier runs
    bool again;                    // it was connected before, and has got state
    bool retained;                 // the broker had our instance's state when we connected
};

void state_start(struct gateway *gateway);
void state_stop(struct gateway *gateway);
void state_free(struct gateway *gateway);

// Something is due: it will be published soon.
void state_is_due(struct gateway *gateway);

// Publishes all that is due, as far as the broker keeps up. True when nothing is left.
bool state_publish(struct gateway *gateway);

// The state of the instance. It goes to the broker at once and not through the outbox, where it would wait
// behind all messages.
void state_publish_instance(struct gateway *gateway, bool online);

// What the link reports; topic is what follows {prefix}/state/gw/.
void state_link_connected(struct gateway *gateway);
void state_link_up(struct gateway *gateway);
void state_link_down(struct gateway *gateway);
void state_received(struct gateway *gateway, const char *topic, const struct mqtt_received *received);

// What the broker retains from earlier runs has been heard; state is published from now on.
void state_answered(struct gateway *gateway);

// The broker has delivered all that it retained: when it had nothing of us, it has lost it.
void state_settled(struct gateway *gateway);

// Takes away all that stands retained of the device of an id, but for what its device_state has, if there is
// one. What is due of devices is published behind it.
void state_clear(struct gateway *gateway, int64_t device_id);
// Whether telemetry of the device is being taken away.
bool state_clears_telemetry(const struct gateway *gateway, int64_t device_id);

// The instance's own state; see instance_state.h.
#include "gateway/state/instance_state.h"

#include <jansson.h>
#include <stdlib.h>

#include "gateway/base/memory.h"

const char instance_state_last_will[] = "{\"state\":\"offline\"}";

struct instance_state {
    const struct bus *bus;
    bool hand_over;  // this instance will not run again
    bool intake;     // this instance takes commands in
    bool commands;   // and the broker lets it
    int64_t started; // microseconds since 1970
};

struct instance_state *instance_state_new(const struct config *config, const struct bus *bus,
                                          int64_t started) {
    struct instance_state *instance_state = must_have(malloc(sizeof *instance_state));
    *instance_state = (struct instance_state){
        .bus = bus, .hand_over = config->hand_over, .intake = config->commands.intake, .started = started};
    return instance_state;
}

void instance_state_free(struct instance_state *instance_state) {
    free(instance_state);
}

static json_t *online_state(const struct instance_state *instance_state) {
    const struct bus *bus = instance_state->bus;
    json_t *commands = instance_state->intake ? json_boolean(instance_state->commands) : NULL;
    return json_pack("{s:s, s:s, s:f, s:b, s:I, s:o*}", "state", "online", "version", TRACKBUS_VERSION,
                     "started", (double)instance_state->started / 1e6, "full", bus_is_full(bus), "set_aside",
                     (json_int_t)bus_set_aside_count(bus), "commands", commands);
}

// NULL for an instance that will not run again.
static json_t *offline_state(const struct instance_state *instance_state) {
    return instance_state->hand_over ? NULL : json_loads(instance_state_last_will, 0, NULL);
}

void instance_state_set_commands(struct instance_state *instance_state, bool come) {
    instance_state->commands = come;
}

static const char own_topic[] = TOPIC_STATE TOPIC_INSTANCES "%s";

void instance_state_publish(const struct instance_state *instance_state, bool online) {
    const struct bus *bus = instance_state->bus;
    json_t *state = online ? online_state(instance_state) : offline_state(instance_state);
    if (online)
        bus_say(bus, state, own_topic, bus_client_id(bus));
    else
        bus_publish_last(bus, state, own_topic, bus_client_id(bus));
    json_decref(state);
}

// An older state of this run that comes back is as good: the latest one is behind it.
bool instance_state_is_right(const struct instance_state *instance_state,
                             const struct mqtt_received *received) {
    json_t *ours = online_state(instance_state);
    json_t *json = json_loadb(received->payload, received->length, 0, NULL);
    bool right = json_equal(json_object_get(json, "state"), json_object_get(ours, "state")) &&
                 json_equal(json_object_get(json, "started"), json_object_get(ours, "started"));
    json_decref(ours);
    json_decref(json);
    return right;
}

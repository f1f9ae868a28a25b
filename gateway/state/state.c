// The front of this room; see state.h.
#include "gateway/state/state.h"

#include <stdlib.h>

#include "gateway/base/memory.h"
#include "gateway/state/channel_state.h"
#include "gateway/state/clearing.h"
#include "gateway/state/devices.h"
#include "gateway/state/home_assistant.h"
#include "gateway/state/instance_state.h"
#include "gateway/state/instances.h"
#include "gateway/state/publisher.h"
#include "gateway/state/reader.h"

#define INTERVAL 100 // milliseconds between attempts to begin reading

struct state {
    struct state_parts parts;
    struct publisher *publisher; // open once it is known what the broker retains from earlier runs
    struct instances *instances;
    struct channel_state *channel_state;
    struct clearing *clearing;
    struct home_assistant *home_assistant;
    struct instance_state *instance_state;
    struct devices *devices;
    struct state_reader *reader; // or NULL
    uv_timer_t timer;            // runs until reading begins
    bool again;                  // the broker was connected before, and has got state
};

// --- what the broker retains from earlier runs ---

static void on_read(void *context, const char *topic, const struct mqtt_received *received) {
    state_received(context, topic, received);
}

static void on_all_read(void *context) {
    struct state *state = context;
    publisher_open(state->publisher);
    devices_all_read(state->devices);
    publisher_publish(state->publisher);
}

// What an earlier run has left in the outbox may be state, and has to be with the broker before that is asked
// what it retains. True once it is asked.
static bool begin_reading(struct state *state) {
    const struct outbox *outbox = state->parts.outbox;
    const struct state_reader_handlers handlers = {
        .context = state, .received = on_read, .answered = on_all_read};
    if (state->reader == NULL && outbox_keeps_up(outbox) && outbox_is_rid_of_earlier(outbox))
        state->reader = state_reader_new(state->parts.loop, state->parts.config, state->parts.bus,
                                         &state->parts.asker, &handlers);
    return state->reader != NULL;
}

static void on_timer(uv_timer_t *timer) {
    if (begin_reading(timer->data))
        uv_timer_stop(timer);
}

static void begin_reading_soon(struct state *state) {
    if (!uv_is_closing((uv_handle_t *)&state->timer))
        uv_timer_start(&state->timer, on_timer, INTERVAL, INTERVAL);
}

bool state_is_answered(const struct state *state) {
    return publisher_is_open(state->publisher);
}

bool state_is_connecting(const struct state *state) {
    return state_reader_is_connecting(state->reader);
}

// --- what the link reports ---

void state_link_connected(struct state *state) {
    state->again = state_is_answered(state);
    instance_state_begin(state->instance_state);
    instances_begin(state->instances);
}

void state_link_up(struct state *state) {
    if (!begin_reading(state))
        begin_reading_soon(state);
}

void state_link_down(struct state *state) {
    clearing_link_down(state->clearing);
}

static void hear_instance(struct state *state, const char *topic, const struct mqtt_received *received) {
    instance_state_received(state->instance_state, topic, received);
    instances_received(state->instances, topic, received);
    channel_state_received(state->channel_state, topic, received);
}

void state_received(struct state *state, const char *topic, const struct mqtt_received *received) {
    const char *device = topic_after(topic, TOPIC_DEVICES);
    const char *instance = topic_after(topic, TOPIC_INSTANCES);
    state_reader_received(state->reader, topic, received);
    if (device != NULL)
        devices_received(state->devices, device, received);
    else if (instance != NULL)
        hear_instance(state, instance, received);
}

void state_heard_home_assistant(struct state *state, const struct mqtt_received *received) {
    if (home_assistant_received(state->home_assistant, received))
        devices_announce(state->devices);
}

void state_roll_call_answered(struct state *state) {
    instances_answered(state->instances);
}

void state_roll_call_settled(struct state *state) {
    if (!instance_state_is_retained(state->instance_state) && state->again)
        devices_restore(state->devices);
    instances_settled(state->instances);
}

// --- what the channels report ---

void state_arrived(struct state *state, const struct session *session, const struct config_channel *channel) {
    devices_arrived(state->devices, session, channel);
}

void state_left(struct state *state, const struct session *session) {
    devices_left(state->devices, session);
}

void state_reported(struct state *state, const struct session *session, const struct channel_report *report) {
    devices_reported(state->devices, session, report);
}

void state_channel_changed(struct state *state, const struct config_channel *channel) {
    channel_state_changed(state->channel_state, channel);
}

// --- what is published ---

const char *state_last_will(void) {
    return instance_state_last_will;
}

bool state_publish(struct state *state) {
    return publisher_publish(state->publisher);
}

void state_publish_instance(struct state *state, bool online) {
    instance_state_publish(state->instance_state, online);
}

void state_commands_come(struct state *state, bool come) {
    instance_state_set_commands(state->instance_state, come);
}

void state_reload(struct state *state) {
    devices_reload(state->devices);
}

// --- making and taking apart ---

static void remove_device(void *context, int64_t device_id) {
    struct state *state = context;
    devices_remove(state->devices, device_id);
}

static struct devices *make_devices(const struct state *state) {
    return devices_new(&(struct devices_parts){.config = state->parts.config,
                                               .registry = state->parts.registry,
                                               .bus = state->parts.bus,
                                               .publisher = state->publisher,
                                               .clearing = state->clearing,
                                               .home_assistant = state->home_assistant,
                                               .sessions = state->parts.sessions});
}

// They publish in this order: channels first; devices that are being removed before what comes in their
// place.
static void make_publishing(struct state *state) {
    const struct state_parts *parts = &state->parts;
    state->publisher = publisher_new(parts->loop);
    state->channel_state = channel_state_new(parts->config, parts->bus, state->publisher, state->instances,
                                             parts->channels, parts->channel_count);
    state->clearing =
        clearing_new(parts->loop, parts->bus, &parts->asker, state->publisher, remove_device, state);
    state->devices = make_devices(state);
}

struct state *state_new(const struct state_parts *parts) {
    struct state *state = must_have(calloc(1, sizeof *state));
    state->parts = *parts;
    state->instances = instances_new(parts->bus, parts->config->commands.intake);
    state->instance_state = instance_state_new(parts->config, parts->bus, parts->started);
    state->home_assistant = home_assistant_new(parts->config, parts->bus);
    make_publishing(state);
    uv_timer_init(parts->loop, &state->timer);
    state->timer.data = state;
    return state;
}

void state_stop(struct state *state) {
    uv_close((uv_handle_t *)&state->timer, NULL);
    publisher_stop(state->publisher);
    state_reader_stop(state->reader);
    clearing_stop(state->clearing);
}

void state_free(struct state *state) {
    state_reader_free(state->reader);
    devices_free(state->devices);
    clearing_free(state->clearing);
    channel_state_free(state->channel_state);
    publisher_free(state->publisher);
    home_assistant_free(state->home_assistant);
    instance_state_free(state->instance_state);
    instances_free(state->instances);
    free(state);
}

// The front of this room; see state.h.
#include "gateway/state/state.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/state/channel_state.h"
#include "gateway/state/clearing.h"
#include "gateway/state/devices.h"
#include "gateway/state/former.h"
#include "gateway/state/generation.h"
#include "gateway/state/guard.h"
#include "gateway/state/home_assistant.h"
#include "gateway/state/home_assistant_gateway.h"
#include "gateway/state/instance_state.h"
#include "gateway/state/instances.h"
#include "gateway/state/publisher.h"
#include "gateway/state/reader.h"
#include "gateway/state/registrar.h"

#define INTERVAL   100  // milliseconds between attempts to begin reading
#define QUIET_TIME 2000 // milliseconds without an entry of the registry after which the broker has told all
#define WATCHED    1000 // devices of which it is decided in one turn how what others write of them is heard

// How it is heard what others write to the telemetry of our devices. All of it at once, while no other instance is
// online: with others, each would hear everything that the others publish. Then device by device; and so with MQTT
// 3.1.1, where all that is retained for a filter comes first, so that it comes bit by bit.
enum watching { WATCHING_NOTHING, WATCHING_ALL, WATCHING_EACH };

struct state {
    struct state_parts parts;
    struct publisher *publisher; // open once it is known what the broker retains from earlier runs
    struct instances *instances;
    struct channel_state *channel_state;
    struct clearing *clearing;
    struct home_assistant *home_assistant;
    struct home_assistant_gateway *home_assistant_gateway;
    struct former *former;
    uint64_t left; // number in the outbox of what was emptied last where the last run announced
    bool leaving;  // all of that is published, and not all of it taken
    struct instance_state *instance_state;
    struct devices *devices;
    struct registrar *registrar;
    struct generation *generation;
    struct guard *guard;
    enum watching watching;
    bool settled;                // the broker has said, in this connection, which instances there are
    bool remembered;             // the broker had something of us when this connection began
    bool configured_changed;     // what the store says of it is still that of an earlier configuration
    bool was_offline;            // so the broker said of us when this connection began
    struct state_reader *reader; // or NULL
    uv_timer_t timer;            // runs until reading begins
};

// --- those that are gone ---

static void take_over_from(void *context, const char *client_id) {
    struct state *state = context;
    devices_take_over(state->devices, client_id);
}

// One of those that are left speaks of the devices of those that are gone, also when nobody saw them go: so this is
// done once all is known, and whenever one goes after that.
static void take_over(void *context) {
    struct state *state = context;
    publisher_wake(state->publisher); // what one says for all may be ours to say now
    if (state->settled && publisher_is_open(state->publisher) && instances_speak_here(state->instances))
        instances_each_offline(state->instances, take_over_from, state);
}

// --- what the broker retains from earlier runs ---

static void on_read(void *context, const char *topic, const struct mqtt_received *received) {
    state_received(context, topic, received);
}

static void on_discovered(void *context, const struct mqtt_received *received) {
    state_heard_home_assistant(context, received);
}

static void on_all_read(void *context) {
    struct state *state = context;
    publisher_open(state->publisher);
    devices_all_read(state->devices);
    state->configured_changed = true;
    take_over(state);
    publisher_publish(state->publisher);
}

// What an earlier run has left in the outbox may be state, and has to be with the broker before that is asked
// what it retains. True once it is asked.
static bool begin_reading(struct state *state) {
    const struct outbox *outbox = state->parts.outbox;
    const struct state_reader_handlers handlers = {
        .context = state, .received = on_read, .discovered = on_discovered, .answered = on_all_read};
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

size_t state_devices(const struct state *state) {
    return devices_count(state->devices);
}

bool state_has_others(const struct state *state) {
    return instances_any_online(state->instances);
}

bool state_knows(const struct state *state, int64_t device_id) {
    return !state_is_answered(state) || devices_know(state->devices, device_id);
}

bool state_is_connecting(const struct state *state) {
    return state_reader_is_connecting(state->reader);
}

// --- what the link reports ---

void state_link_connected(struct state *state) {
    state->was_offline = state->settled = state->remembered = false;
    generation_connected(state->generation);
    registrar_connected(state->registrar);
    instances_begin(state->instances);
}

// Questions that a run was in the middle of when it was killed.
static void drop_what_earlier_runs_asked(const struct state *state) {
    const struct mqtt_asker *asker = &state->parts.asker;
    char filter[TOPIC_MAX];
    asker->drop_inherited(asker->context, clearing_filter_of_all(state->parts.bus, filter));
    bus_topic(state->parts.bus, filter, TOPIC_STATE TOPIC_DEVICES "+" TOPIC_TELEMETRY "timestamp");
    asker->drop_inherited(asker->context, filter);
}

void state_link_up(struct state *state) {
    drop_what_earlier_runs_asked(state);
    home_assistant_gateway_announce(state->home_assistant_gateway);
    if (!begin_reading(state))
        begin_reading_soon(state);
}

void state_link_down(struct state *state) {
    generation_link_down(state->generation);
    clearing_link_down(state->clearing);
    devices_link_down(state->devices);
    guard_forget(state->guard);
}

void state_link_ready(struct state *state) {
    devices_taken(state->devices);
}

static bool is_generation(const struct state *state, const char *instance) {
    const char *rest = bus_after_own(state->parts.bus, instance);
    return rest != NULL && strcmp(rest, TOPIC_GENERATION) == 0;
}

static bool is_discovery(const struct state *state, const char *instance) {
    const char *rest = bus_after_own(state->parts.bus, instance);
    return rest != NULL && strcmp(rest, TOPIC_DISCOVERY) == 0;
}

// Our own topics, where what we publish comes back: a Last Will that is late, or what somebody else writes.
static void compare_own(struct state *state, const char *topic, const char *instance,
                        const struct mqtt_received *received) {
    bool known = true, right = true;
    const char *rest = bus_after_own(state->parts.bus, instance);
    if (rest != NULL && strcmp(rest, TOPIC_MARK) == 0)
        clearing_heard_mark(state->clearing, received);
    if (bus_is_own(state->parts.bus, instance))
        right = instance_state_is_right(state->instance_state, received);
    else if (is_generation(state, instance))
        right = generation_is_said(state->generation, received->payload, received->length);
    else
        known = false;
    if (known && right)
        guard_right(state->guard, topic);
    else if (known)
        guard_wrong(state->guard, topic);
}

static void hear_instance(struct state *state, const char *topic, const char *instance,
                          const struct mqtt_received *received) {
    if (!received->retain)
        compare_own(state, topic, instance, received);
    else if (bus_is_own(state->parts.bus, instance))
        state->was_offline = !instance_state_is_right(state->instance_state, received);
    // What we have said on this connection may come as well, when it is asked for.
    if (received->retain && (state->was_offline || is_generation(state, instance)))
        state->remembered = true;
    generation_received(state->generation, instance, received);
    instances_received(state->instances, instance, received);
    channel_state_received(state->channel_state, topic, received);
}

void state_received(struct state *state, const char *topic, const struct mqtt_received *received) {
    const char *instance = topic_after(topic, TOPIC_INSTANCES);
    if (instance != NULL)
        hear_instance(state, topic, instance, received);
    else if (topic_after(topic, TOPIC_DEVICES) != NULL)
        devices_received(state->devices, topic, received);
    else if (topic_after(topic, TOPIC_CHANNELS) != NULL)
        channel_state_heard_sum(state->channel_state, topic, received);
    state_reader_received(state->reader, topic, received);
}

void state_received_registry(struct state *state, const char *ident, const struct mqtt_received *received) {
    registrar_received(state->registrar, ident, received);
}

void state_heard_home_assistant(struct state *state, const struct mqtt_received *received) {
    int64_t id;
    if (home_assistant_gateway_received(state->home_assistant_gateway, received) ||
        (received->retain && devices_found_discovery(state->devices, received)))
        return;
    if (home_assistant_topic_id(state->home_assistant, received->topic, &id))
        devices_heard_discovery(state->devices, id, received);
    else if (home_assistant_received(state->home_assistant, received)) {
        home_assistant_gateway_announce(state->home_assistant_gateway);
        devices_announce(state->devices);
    }
}

// --- what somebody else has changed ---

static void on_again(void *context, const char *topic) {
    struct state *state = context;
    const char *instance = topic_after(topic, TOPIC_INSTANCES);
    if (topic_after(topic, TOPIC_DEVICES) != NULL)
        devices_again(state->devices, topic);
    else if (instance == NULL)
        channel_state_again(state->channel_state, topic);
    else if (bus_is_own(state->parts.bus, instance))
        state_publish_instance(state, true);
    else if (is_generation(state, instance))
        generation_say_again(state->generation);
    else if (is_discovery(state, instance))
        home_assistant_gateway_announce(state->home_assistant_gateway);
    else
        channel_state_again(state->channel_state, topic);
}

static void on_all_again(void *context) {
    struct state *state = context;
    const struct generation_span everything = {0, UINT32_MAX};
    devices_restore(state->devices, everything);
    channel_state_all_changed(state->channel_state);
    generation_say_again(state->generation);
    home_assistant_gateway_announce(state->home_assistant_gateway);
    state_publish_instance(state, true);
}

static void watch_all(const struct state *state, bool all) {
    const struct mqtt_asker *asker = &state->parts.asker;
    char filter[TOPIC_MAX];
    bus_topic(state->parts.bus, filter, TOPIC_STATE TOPIC_DEVICES "+" TOPIC_TELEMETRY "#");
    if (all)
        asker->listen(asker->context, filter);
    else if (state->watching == WATCHING_ALL)
        asker->drop(asker->context, filter);
    else
        asker->drop_inherited(asker->context, filter);
}

// As others come and go.
static bool watch(void *context) {
    struct state *state = context;
    const struct mqtt_asker *asker = &state->parts.asker;
    bool each = instances_any_online(state->instances) || asker->echoes(asker->context);
    enum watching wanted = each ? WATCHING_EACH : WATCHING_ALL;
    if (wanted != state->watching && instances_are_known(state->instances)) {
        watch_all(state, !each);
        devices_watch_each(state->devices, each);
        state->watching = wanted;
    }
    return devices_watch_some(state->devices, WATCHED);
}

static void publish_leaving(struct state *state) {
    const char *node;
    struct discovery_place of_gateway = former_of_gateway(state->former, &node);
    struct discovery_place of_trackers = former_of_trackers(state->former);
    if (of_trackers.prefix != NULL && !devices_leave_former(state->devices))
        return;
    if (of_gateway.prefix != NULL)
        home_assistant_gateway_remove(state->parts.bus, &of_gateway, node);
    state->left = bus_last_number(state->parts.bus);
    state->leaving = true;
}

// What the last run has announced, and this one does not. The store says so until the broker has taken that it is gone.
static bool leave_former(void *context) {
    struct state *state = context;
    if (!former_differs(state->former))
        return true;
    if (!bus_keeps_up(state->parts.bus))
        return false;
    if (!state->leaving)
        publish_leaving(state);
    if (!state->leaving || !bus_has_taken(state->parts.bus, state->left))
        return false;
    home_assistant_set_former(state->home_assistant, &(struct discovery_place){0});
    former_remember(state->former);
    return true;
}

// What has left the configuration stands in the store until the broker has all that clears it: should we end before, the
// next run begins with that again.
static bool remember_configured(void *context) {
    struct state *state = context;
    if (!state->configured_changed)
        return true;
    if (devices_are_reloading(state->devices) || !devices_are_removed(state->devices))
        return false;
    registrar_remember_configured(state->registrar);
    state->configured_changed = false;
    return true;
}

void state_roll_call_answered(struct state *state) {
    instances_answered(state->instances);
}

void state_roll_call_settled(struct state *state) {
    struct generation_span lost = generation_settled(state->generation);
    clearing_restore(state->clearing, lost);
    devices_restore(state->devices, lost);
    if (state->was_offline && instances_any_online(state->instances))
        devices_assert_connected(state->devices);
    instances_settled(state->instances);
    registrar_settled(state->registrar, state->remembered, lost);
    state->settled = true;
    take_over(state);
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

void state_finish(struct state *state) {
    devices_rest_no_more(state->devices);
    publisher_publish(state->publisher);
}

void state_publish_instance(struct state *state, bool online) {
    instance_state_publish(state->instance_state, online);
}

void state_commands_come(struct state *state, bool come) {
    instance_state_set_commands(state->instance_state, come);
}

void state_reload_begin(struct state *state) {
    devices_reload_begin(state->devices);
}

bool state_reload_some(struct state *state, size_t count) {
    bool all = devices_reload_some(state->devices, count);
    if (all && state_is_answered(state)) { // until then it is what the last run had that counts
        state->configured_changed = true;
        publisher_wake(state->publisher);
    }
    return all;
}

void state_forget_silent(struct state *state) {
    if (state_is_answered(state))
        devices_forget_silent(state->devices);
}

bool state_is_forgetting(const struct state *state) {
    return devices_are_forgetting(state->devices);
}

// --- making and taking apart ---

static void remove_device(void *context, int64_t device_id, const char *ident) {
    struct state *state = context;
    devices_remove(state->devices, device_id, ident);
}

static void emptied(void *context, int64_t device_id, const char *field) {
    struct state *state = context;
    devices_emptied(state->devices, device_id, field);
}

static struct devices *make_devices(const struct state *state) {
    return devices_new(&(struct devices_parts){.config = state->parts.config,
                                               .registry = state->parts.registry,
                                               .bus = state->parts.bus,
                                               .asker = state->parts.asker,
                                               .generation = state->generation,
                                               .guard = state->guard,
                                               .publisher = state->publisher,
                                               .clearing = state->clearing,
                                               .home_assistant = state->home_assistant,
                                               .sessions = state->parts.sessions,
                                               .gone = state->parts.device_gone,
                                               .context = state->parts.context});
}

static void relist(void *context, const char *ident, const struct device *before, bool stood) {
    struct state *state = context;
    devices_relist(state->devices, ident, before, stood);
}

static bool is_reloading(void *context) {
    const struct state *state = context;
    return devices_are_reloading(state->devices);
}

static bool speaks(void *context) {
    const struct state *state = context;
    return instances_speak_here(state->instances);
}

// Before the devices, which are those that the registry then has.
static struct registrar *make_registrar(struct state *state) {
    return registrar_new(&(struct registrar_parts){.loop = state->parts.loop,
                                                   .bus = state->parts.bus,
                                                   .registry = state->parts.registry,
                                                   .store = state->parts.store,
                                                   .asker = state->parts.asker,
                                                   .quiet_time = QUIET_TIME,
                                                   .publisher = state->publisher,
                                                   .generation = state->generation,
                                                   .context = state,
                                                   .changed = relist,
                                                   .is_busy = is_reloading,
                                                   .speaks = speaks});
}

// They publish in this order: channels first; devices that are being removed before what comes in their
// place.
static void make_publishing(struct state *state) {
    const struct state_parts *parts = &state->parts;
    state->publisher = publisher_new(parts->loop);
    state->guard = guard_new(parts->loop, &(struct guard_handlers){state, on_again, on_all_again});
    state->channel_state = channel_state_new(parts->config, parts->bus, state->publisher, state->guard,
                                             state->instances, parts->channels, parts->channel_count);
    state->generation = generation_new(parts->loop, parts->bus, state->publisher);
    state->clearing = clearing_new(parts->loop, parts->bus, &parts->asker, state->publisher,
                                   state->generation, remove_device, emptied, state);
    state->registrar = make_registrar(state);
    state->devices = make_devices(state);
    state->home_assistant_gateway =
        home_assistant_gateway_new(parts->config, parts->bus, state->publisher, state->guard);
    publisher_add(state->publisher, leave_former, state);
    publisher_add(state->publisher, watch, state);
    publisher_add(state->publisher, remember_configured, state);
    instances_when_gone(state->instances, take_over, state);
}

static void make_home_assistant(struct state *state) {
    const struct state_parts *parts = &state->parts;
    char node[HOME_ASSISTANT_GATEWAY_MAX];
    state->home_assistant = home_assistant_new(parts->config, parts->bus);
    state->former = former_new(parts->config, home_assistant_gateway_node(parts->bus, node), parts->store);
    struct discovery_place place = former_of_trackers(state->former);
    home_assistant_set_former(state->home_assistant, &place);
}

struct state *state_new(const struct state_parts *parts) {
    struct state *state = must_have(calloc(1, sizeof *state));
    state->parts = *parts;
    state->instances = instances_new(parts->bus, parts->config->commands.intake);
    state->instance_state = instance_state_new(parts->config, parts->bus, parts->started);
    make_home_assistant(state);
    make_publishing(state);
    uv_timer_init(parts->loop, &state->timer);
    state->timer.data = state;
    return state;
}

void state_stop(struct state *state) {
    uv_close((uv_handle_t *)&state->timer, NULL);
    publisher_stop(state->publisher);
    guard_stop(state->guard);
    state_reader_stop(state->reader);
    clearing_stop(state->clearing);
    registrar_stop(state->registrar);
}

void state_free(struct state *state) {
    state_reader_free(state->reader);
    devices_free(state->devices);
    registrar_free(state->registrar);
    clearing_free(state->clearing);
    channel_state_free(state->channel_state);
    guard_free(state->guard);
    generation_free(state->generation);
    publisher_free(state->publisher);
    home_assistant_gateway_free(state->home_assistant_gateway);
    home_assistant_free(state->home_assistant);
    former_free(state->former);
    instance_state_free(state->instance_state);
    instances_free(state->instances);
    free(state);
}

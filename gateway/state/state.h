// The front of this room: all that is retained for the instance, its channels and its devices. Makes the
// parts, tells them what the link and the channels report, and decides when the broker is asked what it
// retains, and when it has lost it.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/broker/bus.h"
#include "gateway/broker/outbox.h"
#include "gateway/broker/store.h"
#include "gateway/channels/channel.h"
#include "gateway/channels/observer.h"
#include "gateway/channels/session.h"
#include "gateway/config/config.h"
#include "gateway/config/registry.h"

struct state;

// All stay the caller's.
struct state_parts {
    uv_loop_t *loop;
    const struct config *config;
    struct registry *registry;
    const struct bus *bus;
    const struct outbox *outbox;
    struct mqtt_asker asker; // of the main connection
    const struct session_table *sessions;
    const struct channel *channels; // config's, in the same order; all zero until they are opened
    size_t channel_count;
    int64_t started;     // microseconds since 1970
    struct store *store; // of the copy of the broker's registry
    // A device has gone out of the registry: nothing is for its id any more.
    void (*device_gone)(void *context, int64_t id);
    void *context;
};

// The payload of the Last Will, for the topic state/gw/instances/{client_id}.
const char *state_last_will(void);

struct state *state_new(const struct state_parts *parts);
// Closes all handles on the loop. The memory goes with state_free() after the loop has ended.
void state_stop(struct state *state);
void state_free(struct state *state);

// What the channels tell; see struct channel_observer.
void state_arrived(struct state *state, const struct session *session, const struct config_channel *channel);
void state_left(struct state *state, const struct session *session);
void state_reported(struct state *state, const struct session *session, const struct channel_report *report);
void state_channel_changed(struct state *state, const struct config_channel *channel);

// The link: is connected (what is retained begins to come); is up; is lost.
void state_link_connected(struct state *state);
void state_link_up(struct state *state);
void state_link_down(struct state *state);
// What had come over it was passed on: the broker may have taken what we published.
void state_link_ready(struct state *state);
// Something came under {prefix}/state/gw/; topic is what follows that.
void state_received(struct state *state, const char *topic, const struct mqtt_received *received);
// Something came under {prefix}/registry/gw/devices/; ident is what follows that.
void state_received_registry(struct state *state, const char *ident, const struct mqtt_received *received);
// Something came on Home Assistant's status topic, or on a discovery topic.
void state_heard_home_assistant(struct state *state, const struct mqtt_received *received);

// The roll call: the broker has delivered what it delivers in order; and, after the quiet period, all that it
// retains. When it had nothing of us by then, it has lost it.
void state_roll_call_answered(struct state *state);
void state_roll_call_settled(struct state *state);

// Publishes all that is due, as far as the broker keeps up. True when nothing is left; false while it is not
// known what the broker retains from earlier runs.
bool state_publish(struct state *state);
// The same for the last time: what waits for telemetry_interval to pass goes out as well.
void state_finish(struct state *state);

// The state of the instance: at once, past the outbox.
void state_publish_instance(struct state *state, bool online);

// Whether the broker gives us what is published to the command topics, as the state of the instance then says. Not
// called in one that takes no commands in.
void state_commands_come(struct state *state, bool come);

// The registry has changed; registry_swap() comes before it, sessions_reload_begin() after all of it is done. Takes so
// many devices at a time; returns whether that was all.
void state_reload_begin(struct state *state);
bool state_reload_some(struct state *state, size_t count);

// To be called now and then: devices outside the registry that were silent for limits.forget_unknown_after go, with all
// that is retained of them.
void state_forget_silent(struct state *state);
// They go in portions. Whether that is under way.
bool state_is_forgetting(const struct state *state);

// Whether what the broker retains from earlier runs has been heard: state is published from then on.
bool state_is_answered(const struct state *state);

// Whether a device of that id is in the registry or was ever heard, as far as is known: before all that is
// retained of earlier runs has been heard, every device may have been.
bool state_knows(const struct state *state, int64_t device_id);

// How many devices have an identity here: those of the registry, and others that were heard.
size_t state_devices(const struct state *state);

// Whether other instances are online.
bool state_has_others(const struct state *state);

// Whether an attempt to connect is still on a thread, which cannot be called back; the loop will not end
// before it.
bool state_is_connecting(const struct state *state);

// What is retained for each device: who it is, whether it is connected, and its last values (telemetry).
//
// The last values are kept in memory, so that only what changed is published, and everything can be published
// again when the broker has lost it. Nothing of it goes to disk: while the broker is away or behind, what has
// changed is marked, and only the last value is published when it keeps up again.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/broker/bus.h"
#include "gateway/channels/observer.h"
#include "gateway/channels/session.h"
#include "gateway/config/config.h"
#include "gateway/config/registry.h"
#include "gateway/state/clearing.h"
#include "gateway/state/generation.h"
#include "gateway/state/guard.h"
#include "gateway/state/home_assistant.h"
#include "gateway/state/publisher.h"

struct devices;

// All stay the caller's.
struct devices_parts {
    const struct config *config;
    struct registry *registry;
    const struct bus *bus;
    struct mqtt_asker asker;
    struct publisher *publisher;
    struct clearing *clearing;
    struct generation *generation;
    struct guard *guard;
    struct home_assistant *home_assistant;
    const struct session_table *sessions;
    // A device has gone out of the registry, or has another id now: nothing is for that id any more. Or NULL.
    void (*gone)(void *context, int64_t id);
    void *context;
};

// Makes the states of the registry's devices, and adds itself to the publisher.
struct devices *devices_new(const struct devices_parts *parts);
void devices_free(struct devices *devices);
size_t devices_count(const struct devices *devices);

// What the channels tell; see struct channel_observer.
void devices_arrived(struct devices *devices, const struct session *session,
                     const struct config_channel *channel);
void devices_left(struct devices *devices, const struct session *session);
// Takes the values of a report, and publishes at once. A value that is older than the one known is left out.
void devices_reported(struct devices *devices, const struct session *session,
                      const struct channel_report *report);

// Something came under {prefix}/state/gw/; topic is what follows that. Retained it is ours from an earlier run, or
// another gateway's; otherwise somebody has just written it.
void devices_received(struct devices *devices, const char *topic, const struct mqtt_received *received);

// All that the broker retained at the beginning has been heard: what it did not have is due.
void devices_all_read(struct devices *devices);

// The broker has lost what was published in that span: it is due again.
void devices_restore(struct devices *devices, struct generation_span lost);

// That instance is offline: its devices are connected to nobody, and ours from now on to speak of. With Home Assistant
// also those that sleep, whose entities would depend on it.
void devices_take_over(struct devices *devices, const char *client_id);
// Another instance may have done so with ours while we were away: who is here is said again.
void devices_assert_connected(struct devices *devices);

// What belongs on a topic of ours (as in devices_received(); devices/{id}/discovery stands for all that is for
// Home Assistant) is due again.
void devices_again(struct devices *devices, const char *topic);

// telemetry/{field} of the id was emptied with what a removed device has left: it is due again where a device has it.
void devices_emptied(struct devices *devices, int64_t id, const char *field);

// What waits for telemetry_interval to pass is due now, and nothing waits for it any more.
void devices_rest_no_more(struct devices *devices);

// Something has come on a discovery topic of Home Assistant's that is about the device of that id.
void devices_heard_discovery(struct devices *devices, int64_t id, const struct mqtt_received *received);

// Something is retained on a discovery topic: true when that announces a device of ours in the kind of discovery that is not
// in use.
bool devices_found_discovery(struct devices *devices, const struct mqtt_received *received);

// Removes what the last run has announced of our devices at a place where this one does not, as far as the broker keeps up.
// True once all is published. The first call of a run begins it.
bool devices_leave_former(struct devices *devices);

// Whether to hear device by device what others write to the telemetry of ours.
void devices_watch_each(struct devices *devices, bool each);
// Does so for up to count devices; true when none is left.
bool devices_watch_some(struct devices *devices, size_t count);
void devices_link_down(struct devices *devices);

// The broker has taken messages: what waited for that goes out.
void devices_taken(struct devices *devices);

// All are due for Home Assistant again.
void devices_announce(struct devices *devices);

// The registry has changed: names, ids, devices that are new or gone. So many devices are looked at at a time, and the
// sessions of those that have another id are told. Returns whether all is done; sessions_reload_begin() comes then.
void devices_reload_begin(struct devices *devices);
bool devices_reload_some(struct devices *devices, size_t count);

bool devices_are_reloading(const struct devices *devices);

// What the registry says of one ident has changed, at once; before is what it said. stood: it said so when we started,
// so that it is not told as new. Not while they are reloading.
void devices_relist(struct devices *devices, const char *ident, const struct device *before, bool stood);

// As state_forget_silent() and state_is_forgetting().
void devices_forget_silent(struct devices *devices);
bool devices_are_forgetting(const struct devices *devices);

// Whether a device of that id is in the registry, was heard, or had something retained at the beginning.
bool devices_know(const struct devices *devices, int64_t id);

// Clears what is retained under an id, except telemetry; only what is for Home Assistant, where a device has
// that id. And what is for OwnTracks of that ident (or NULL), unless a device has it.
void devices_remove(struct devices *devices, int64_t id, const char *ident);

// Whether the broker has taken all that devices_remove() cleared, and clearing has no more to be removed.
bool devices_are_removed(const struct devices *devices);

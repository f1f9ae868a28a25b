// Removing devices: all that is retained for them is cleared. Only the broker knows which telemetry there is, so it
// is asked, in rounds: we subscribe to it, and what comes is cleared. A round is over when the broker has given back
// a mark that we sent behind the subscriptions, and is quiet. A device has gone when a round brought
// nothing of it but perhaps its timestamp, which is emptied last.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/broker/bus.h"
#include "gateway/broker/mqtt.h"
#include "gateway/state/generation.h"
#include "gateway/state/publisher.h"

struct clearing;

// Clears all that is retained for a device, except its telemetry; ident as in clearing_begin().
typedef void clearing_remove_fn(void *context, int64_t device_id, const char *ident);
// telemetry/{field} of the id was emptied: a device that has the id now has to publish its own again.
typedef void clearing_emptied_fn(void *context, int64_t device_id, const char *field);

// Adds itself to the publisher. All that is handed in stays the caller's.
struct clearing *clearing_new(uv_loop_t *loop, const struct bus *bus, const struct mqtt_asker *asker,
                              struct publisher *publisher, struct generation *generation,
                              clearing_remove_fn *remove, clearing_emptied_fn *emptied, void *context);
// Closes the handle on the loop, and asks for nothing any more. The memory goes with clearing_free() after
// the loop has ended.
void clearing_stop(struct clearing *clearing);
void clearing_free(struct clearing *clearing);

// Removes the device of that id. remove is called when the publisher is open and the broker keeps up, and
// telemetry is asked for after that.
// ident: what it called itself, which is handed on to remove; NULL: that device is still there, under another id.
void clearing_begin(struct clearing *clearing, int64_t device_id, const char *ident);

// The broker has telemetry of a device of which it has told no identity: what was left when a run ended in the middle
// of removing it. It is cleared, unless the broker has an identity after all: then it is another gateway's.
void clearing_begin_orphan(struct clearing *clearing, int64_t device_id);
// It has.
void clearing_heard_identity(struct clearing *clearing, int64_t device_id);

// The broker has fallen back behind what was published in that span: who was removed since is removed again.
void clearing_restore(struct clearing *clearing, struct generation_span lost);

// Whether telemetry of the device is being cleared.
bool clearing_is_under_way(const struct clearing *clearing, int64_t device_id);

// Some retained telemetry has come: the broker still answers.
void clearing_goes_on(struct clearing *clearing);
// That was of a device that is being removed: clears telemetry/{field}, the timestamp last, by which it is found again
// should we end before.
void clearing_heard_telemetry(struct clearing *clearing, int64_t device_id, const char *field);
// What has come on our topic TOPIC_MARK.
void clearing_heard_mark(struct clearing *clearing, const struct mqtt_received *received);

// Whether remove was called for all: what is published for a device before that would be cleared together
// with what it replaces.
bool clearing_is_clear(const struct clearing *clearing);

// The link is lost: what was asked is asked again.
void clearing_link_down(struct clearing *clearing);

// The filter for the telemetry of all devices, in filter of TOPIC_MAX bytes; returns that. Earlier versions asked for it
// while many went.
const char *clearing_filter_of_all(const struct bus *bus, char filter[TOPIC_MAX]);

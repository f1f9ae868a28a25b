// Removing devices: all that is retained for them is cleared. Only the broker knows which telemetry there is,
// so it is asked: we subscribe to the device's telemetry for a second, and whoever receives it clears what
// comes.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/broker/bus.h"
#include "gateway/broker/mqtt.h"
#include "gateway/state/generation.h"
#include "gateway/state/publisher.h"

struct clearing;

// Clears all that is retained for a device, except its telemetry.
typedef void clearing_remove_fn(void *context, int64_t device_id);

// Adds itself to the publisher. All that is handed in stays the caller's.
struct clearing *clearing_new(uv_loop_t *loop, const struct bus *bus, const struct mqtt_asker *asker,
                              struct publisher *publisher, struct generation *generation,
                              clearing_remove_fn *remove, void *context);
// Closes the handle on the loop, and asks for nothing any more. The memory goes with clearing_free() after
// the loop has ended.
void clearing_stop(struct clearing *clearing);
void clearing_free(struct clearing *clearing);

// Removes the device of that id. remove is called when the publisher is open and the broker keeps up, and
// telemetry is asked for after that.
void clearing_begin(struct clearing *clearing, int64_t device_id);

// The broker has fallen back behind what was published in that span: who was removed since is removed again.
void clearing_restore(struct clearing *clearing, struct generation_span lost);

// Whether telemetry of the device is being cleared.
bool clearing_is_under_way(const struct clearing *clearing, int64_t device_id);

// Whether remove was called for all: what is published for a device before that would be cleared together
// with what it replaces.
bool clearing_is_clear(const struct clearing *clearing);

// The link is lost: what was asked is asked again.
void clearing_link_down(struct clearing *clearing);

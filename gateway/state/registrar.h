// The registry in the broker: what is retained under {prefix}/registry/gw/devices/, here and in a copy on disk.
//
// Somebody publishes a device there, changes or empties it; all gateways on the broker take that over, each into its own
// registry. What the broker has lost is given back: by the gateway that speaks for all (see instances_speak_here()). A
// device that is missing after a connection was removed by somebody, unless the broker remembers nothing of us, or has
// fallen back behind the generation in which we know that it had the device. For the moment until the broker has said that
// generation, a run that goes on gives back, and one that starts takes it for removed.
//
// Devices come by the hundred thousand when a run starts, so each is taken in a portion of a turn of the loop; and a broker
// may leave out some of so many: it is asked again.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/broker/bus.h"
#include "gateway/broker/store.h"
#include "gateway/config/registry.h"
#include "gateway/state/generation.h"
#include "gateway/state/publisher.h"

#define REGISTRAR_MAX         200000 // devices in the broker's registry; of more nothing is taken
#define REGISTRAR_REMOVED_MAX 10000  // of which it is remembered that they were removed
#define REGISTRAR_PAYLOAD_MAX 16384  // bytes

struct registrar;

struct registrar_parts {
    uv_loop_t *loop;
    const struct bus *bus;
    struct registry *registry;
    struct store *store; // or NULL: without a copy
    struct mqtt_asker asker;
    uint64_t quiet_time; // milliseconds without an entry after which the broker has told all
    struct publisher *publisher;
    struct generation *generation;
    void *context;
    // What the registry says of that ident has changed; before is what it said. stood: so the broker said already when
    // this run began.
    void (*changed)(void *context, const char *ident, const struct device *before, bool stood);
    // Whether nothing may change now: a configuration is being taken over.
    bool (*is_busy)(void *context);
    // Whether it is for us to tell the broker.
    bool (*speaks)(void *context);
};

// Takes the copy on disk into the registry, and adds itself to the publisher. parts is copied, what it names stays the
// caller's.
struct registrar *registrar_new(const struct registrar_parts *parts);
// Closes the handle on the loop. The memory goes with registrar_free() after the loop has ended.
void registrar_stop(struct registrar *registrar);
void registrar_free(struct registrar *registrar);

// From now on the store says which devices the configuration has, for the next run: those that it does not have then are
// noted in the registry as left.
void registrar_remember_configured(struct registrar *registrar);

// The link is connected: what is retained begins to come.
void registrar_connected(struct registrar *registrar);
// All that is retained has come. remembered: the broker had something of us; lost is what it has not of that.
void registrar_settled(struct registrar *registrar, bool remembered, struct generation_span lost);
// Something came under {prefix}/registry/gw/devices/; ident is what follows that.
void registrar_received(struct registrar *registrar, const char *ident, const struct mqtt_received *received);

// Of how many devices anything is known: those that the broker has, those that were removed, those that wait for their
// portion.
size_t registrar_count(const struct registrar *registrar);

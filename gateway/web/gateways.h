// The gateways on the broker, as they say of themselves: state, metrics and channels.
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "gateway/broker/mqtt.h"

#define GATEWAYS_MAX 1000 // and channels

struct gateways;

struct gateways *gateways_new(void);
void gateways_free(struct gateways *gateways);

// What came below state/gw/: topic is what follows that. True when it was about a gateway or a channel, and is kept.
bool gateways_take(struct gateways *gateways, const char *topic, const struct mqtt_received *received);

// What this process's own gateway says of itself, without the broker; metrics is taken over.
void gateways_take_own(struct gateways *gateways, const char *instance, json_t *metrics);
// The metrics of this process's own gateway, or NULL.
const json_t *gateways_own(const struct gateways *gateways);
// The connection was lost: what others say is not known to hold until it comes again.
void gateways_lost(struct gateways *gateways);

// How many are online, as far as is known.
size_t gateways_online(const struct gateways *gateways);

// All of them: [{"instance":…,"state":{…},"metrics":{…}}, …], and the channels as they stand; for the caller to release.
json_t *gateways_json(struct gateways *gateways);
json_t *gateways_channels_json(const struct gateways *gateways);
// One gateway, for the caller to release; NULL when there is none of that id.
json_t *gateways_one(const struct gateways *gateways, const char *instance);
// Calls fn for each. online: it says so, and what it says holds.
typedef void gateways_fn(void *context, const char *instance, bool online, const json_t *state,
                         const json_t *metrics);
void gateways_each(const struct gateways *gateways, gateways_fn *fn, void *context);

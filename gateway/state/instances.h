// The other instances on the broker: which are online, and what they say about their channels.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "gateway/broker/bus.h"

#define INSTANCES_MAX          1000 // others that are known; of more, nothing is heard
#define INSTANCES_CHANNELS_MAX 1000 // of each

struct instances;

// Told when what an instance says about a channel has changed; and when what all say together may have
// changed, because an instance has come or gone, or the broker has said which there are.
struct instances_handlers {
    void *context;
    void (*channel_changed)(void *context, int64_t channel_id);
    void (*all_changed)(void *context);
};

// Told when an instance that was online is offline.
typedef void instances_gone_fn(void *context);

// intake: this instance takes commands in, and says for all what their channels have together. The bus stays
// the caller's.
struct instances *instances_new(const struct bus *bus, bool intake);
void instances_free(struct instances *instances);

// handlers are copied; without any nobody is told.
void instances_set_handlers(struct instances *instances, const struct instances_handlers *handlers);

void instances_when_gone(struct instances *instances, instances_gone_fn *gone, void *context);

// The link is connected: what was known of others no longer holds.
void instances_begin(struct instances *instances);
// The roll call: is answered; is settled, after the quiet period.
void instances_answered(struct instances *instances);
void instances_settled(struct instances *instances);
// Something came under {prefix}/state/gw/instances/; topic is what follows that. Ours is ignored.
void instances_received(struct instances *instances, const char *topic, const struct mqtt_received *received);

// Whether the broker has said, in this connection, which others there are.
bool instances_are_known(const struct instances *instances);

// Whether any of the others is online.
bool instances_any_online(const struct instances *instances);

// Calls fn with the client_id of each of the others that has said, or whose Last Will says, that it is offline.
void instances_each_offline(const struct instances *instances,
                            void (*fn)(void *context, const char *client_id), void *context);

// Whether it is for us to say what all have together.
bool instances_sum_here(const struct instances *instances);

// Whether it is for us to speak of the devices of those that are gone: the one that takes commands in does; while that
// is away, the first by name of those that are online.
bool instances_speak_here(const struct instances *instances);

// Connections that the others have in a channel.
int64_t instances_connections(const struct instances *instances, int64_t channel_id);

// The state of a channel as one of the others that have it publishes it, online ones first; or NULL.
const json_t *instances_channel(const struct instances *instances, int64_t channel_id);

// Calls fn for each channel of each of the others; a channel that several have comes several times.
void instances_each_channel(const struct instances *instances, void (*fn)(void *context, int64_t channel_id),
                            void *context);

// The id of a channel, when rest (what follows an instance's client_id in a topic) is /channels/{id};
// otherwise 0.
int64_t instances_channel_of(const char *rest);

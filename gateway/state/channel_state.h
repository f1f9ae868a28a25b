// What is retained for channels. Each instance reports its own channels; one of them reports the sums.
//
// An instance that does not take commands in keeps state/gw/instances/{client_id}/channels/{id}. The one that
// does reads those, and publishes state/gw/channels/{id} with the sum; an instance that is offline counts for
// nothing. When no other instance is online, each does so for itself.
#pragma once

#include "gateway/broker/bus.h"
#include "gateway/channels/channel.h"
#include "gateway/config/config.h"
#include "gateway/state/guard.h"
#include "gateway/state/instances.h"
#include "gateway/state/publisher.h"

struct channel_state;

// channels[0 .. count) are config's, in the same order. Adds itself to the publisher, and is the one whom the
// instances tell. All that is handed in stays the caller's.
struct channel_state *channel_state_new(const struct config *config, const struct bus *bus,
                                        struct publisher *publisher, struct guard *guard,
                                        struct instances *instances, const struct channel *channels,
                                        size_t count);
void channel_state_free(struct channel_state *channel_state);

// The state of one of config's channels has changed.
void channel_state_changed(struct channel_state *channel_state, const struct config_channel *channel);

// Something came under {prefix}/state/gw/instances/; topic is what follows that. Clears what we said in an
// earlier run about a channel and no longer say, and puts right what somebody else has written.
void channel_state_received(struct channel_state *channel_state, const char *topic,
                            const struct mqtt_received *received);

// The states of all channels are due.
void channel_state_all_changed(struct channel_state *channel_state);

// Something came on {prefix}/state/gw/channels/{id}; the same, for what all have together.
void channel_state_heard_sum(struct channel_state *channel_state, const char *topic,
                             const struct mqtt_received *received);

// What belongs on a topic (what follows {prefix}/state/gw/) is due again.
void channel_state_again(struct channel_state *channel_state, const char *topic);

// The other instances on the broker: which are online, and what they say of their channels. Each instance
// says of its own channels what it has; one says for all what they have together.
//
// An instance that does not take commands in keeps state/gw/instances/{client_id}/channels/{id}. The one that
// does reads those, and publishes state/gw/channels/{id} with the sum; an instance that is offline counts for
// nothing. Without another one online each does so, for itself.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gateway;
struct instance;
struct mqtt_received;

struct instance_table {
    struct instance *by_id; // others
    bool known;             // the broker has said, in this connection, whether there are any
};

// What the link reports: is connected; has said what it retains, and, should it deliver out of order, all of
// it; has something under {prefix}/state/gw/instances/, topic is what follows that.
void instances_begin(struct gateway *gateway);
void instances_answered(struct gateway *gateway);
void instances_settled(struct gateway *gateway);
void instances_heard(struct gateway *gateway, const char *topic, const struct mqtt_received *received);

// Whether it is for us to say what all have together.
bool instances_sum_here(const struct gateway *gateway);

// Connections that the others have in a channel.
int64_t instances_connections(const struct gateway *gateway, int64_t channel_id);

// Publishes what is due of channels that only others have, as far as the broker keeps up. True when nothing
// is left.
bool instances_publish(struct gateway *gateway);

void instances_free(struct gateway *gateway);

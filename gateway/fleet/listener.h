// Turns what comes from the broker into what is known of the fleet: which topics to subscribe to, and what
// each payload on them says.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/broker/mqtt_link.h"
#include "gateway/config/config.h"
#include "gateway/fleet/fleet.h"
#include "gateway/fleet/report.h"

#define LISTENER_SUBSCRIPTIONS_MAX 4

struct listener;

// Called from listener_take().
struct listener_handlers {
    void *context;
    // The fleet knows it already.
    void (*message)(void *context, const struct report *report);
    void (*presence)(void *context, const struct report *report); // connected or disconnected
    // The payload is not what its topic promises.
    void (*not_understood)(void *context, const struct mqtt_received *received);
};

// With a device, which is an ident, an id or a name, others are ignored; several may have the same name. config and
// device (or NULL) stay the caller's; handlers are copied.
struct listener *listener_new(const struct config *config, const char *device,
                              const struct listener_handlers *handlers);
void listener_free(struct listener *listener);

struct fleet *listener_fleet(struct listener *listener);

// Subscriptions for the link, which last as long as the listener; *count is how many.
const struct mqtt_subscription *listener_subscriptions(const struct listener *listener, size_t *count);

// A broker drops what it cannot send quickly, such as the retained states of very many devices. So these are
// not among the subscriptions: one topic is asked for after the other. This is the filter of the next one,
// which lasts as long as the listener; NULL after the last one.
const char *listener_states(const struct listener *listener);
// That filter is subscribed to: go on to the next one.
void listener_states_asked(struct listener *listener);

// Takes what came for any of these. Returns whether it is a retained state: those of many devices come in no
// particular order and by the thousand. now is microseconds since 1970.
bool listener_take(struct listener *listener, const struct mqtt_received *received, int64_t now);

// The connection to the broker was lost: states are asked for again from the first one on.
void listener_lost(struct listener *listener);

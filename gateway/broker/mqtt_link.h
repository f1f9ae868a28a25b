// The link to the broker: libmosquitto driven by the libuv loop, MQTT 5 or 3.1.1, with reconnecting of our own:
// to the next broker of the configuration when one is away, and to where a broker sends us.
//
// Each attempt uses a fresh client of libmosquitto, so that nothing published earlier is in it: what the
// broker has not acknowledged is the outbox's to send again, and nobody else's.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/broker/mqtt.h"
#include "gateway/config/config.h"

// Called on the loop. They may publish.
struct mqtt_link_handlers {
    const char *purpose;              // for the log: of a connection that is not the main one; or NULL
    bool stays;                       // such a one: that it is connected is worth a line, as of the main one
    bool somebody_waits;              // for an answer: connecting is tried again after a moment, each time
    void (*connected)(void *context); // what is retained for the subscriptions comes after this
    void (*up)(void *context);        // and subscribed
    // What was handed over and not acknowledged may have arrived or not.
    void (*down)(void *context, enum mqtt_end end);
    // The broker has answered message mid (QoS 1), or it was written to the network (QoS 0), which is taken.
    // reason is a text.
    void (*published)(void *context, int mid, enum mqtt_answer answer, const char *reason);
    void (*received)(void *context, const struct mqtt_received *received);
    // All that had come was passed on. What is published within published() costs more than from here. Or
    // NULL.
    void (*ready)(void *context);
    // The broker has granted or refused a subscription: on each connection before up(), and whenever it is
    // asked again for what it has refused for now. Or NULL.
    void (*granted)(void *context, const struct mqtt_subscription *subscription, bool granted);
    // An attempt has ended before up(), and no other broker is left to try at once; why is good during the call.
    // Returns whether the link shall give up, which the log then does not say. Or NULL: it never does.
    bool (*failed)(void *context, const char *why);
};

struct mqtt_link;

// will_topic and will_payload are the Last Will, retained; NULL for none. The subscriptions (at least one)
// and config must stay, the texts are copied.
struct mqtt_link *mqtt_link_new(uv_loop_t *loop, const struct config *config,
                                const struct mqtt_subscription *subscriptions, size_t subscription_count,
                                enum mqtt_session session, const char *will_topic, const char *will_payload,
                                const struct mqtt_link_handlers *handlers, void *context);

void mqtt_link_start(struct mqtt_link *link);
bool mqtt_link_is_up(const struct mqtt_link *link);

// The version of MQTT on this connection, or on the next one: 5, or 4 for 3.1.1. With 3.1.1 nothing has
// properties: no instance, response topic or correlation comes or goes, and what we publish ourselves comes
// back also where a subscription does not want it.
int mqtt_link_version(const struct mqtt_link *link);

// Seconds after which a broker forgets what is retained for a while and not published again: those of
// limits.forget_unknown_after, but no more than 24 days.
unsigned mqtt_link_expiry(const struct config *config);

// Publishes of QoS 1 that the broker allows to be unacknowledged: 1 to 65535.
unsigned mqtt_link_receive_maximum(const struct mqtt_link *link);

// Whether the broker has kept our session from an earlier connection, with what it has not seen acknowledged.
bool mqtt_link_is_resumed(const struct mqtt_link *link);

// Whether the broker has granted the subscription with this filter on this connection.
bool mqtt_link_has(const struct mqtt_link *link, const char *filter);

// Whether the broker retains anything.
bool mqtt_link_retains(const struct mqtt_link *link);

// Somebody found out that another client uses our client_id: the log says so once a connection, and
// reconnecting becomes slow, so that the two do not fight for it.
void mqtt_link_rival(struct mqtt_link *link);

// Somebody found out that the broker does not give us what we publish to the topics of a subscription, although it has
// granted that: the log says what to look at, once for each broker.
void mqtt_link_unheard(struct mqtt_link *link, const char *filter);

// What carries the outbox's messages; it lives as long as the link.
const struct mqtt_carrier *mqtt_link_carrier(const struct mqtt_link *link);

// Subscribes for a while, or no longer, with QoS 0: to learn what is retained. Also what we publish ourselves
// comes: a broker may leave out what we have published in an earlier run, when it is told to leave out ours.
// What the link subscribes to anyway it goes on with afterwards. False when not connected.
bool mqtt_link_subscribe(struct mqtt_link *link, const char *filter);
void mqtt_link_unsubscribe(struct mqtt_link *link, const char *filter);
// Hears what others publish from now on, on each connection, until it is dropped; see hearing.h.
void mqtt_link_listen(struct mqtt_link *link, const char *filter);
void mqtt_link_drop(struct mqtt_link *link, const char *filter);
void mqtt_link_drop_inherited(struct mqtt_link *link, const char *filter);

// Disconnects in good order, so that the Last Will is not published, and closes all handles on the loop. The
// memory goes with mqtt_link_free() after the loop has ended.
void mqtt_link_stop(struct mqtt_link *link);
void mqtt_link_free(struct mqtt_link *link);

// Whether an attempt to connect is still on a thread, which cannot be called back; the loop will not end
// before it.
bool mqtt_link_is_connecting(const struct mqtt_link *link);

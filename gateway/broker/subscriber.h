// The subscriptions of a connection: asks for them, keeps what the broker has granted, and asks again for those
// that it refused; see asking_again.h.
// Beside the lasting ones there are some for a while, to learn what is retained.
#pragma once

#include <mosquitto.h>
#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

#include "gateway/broker/asking_again.h"
#include "gateway/broker/mqtt.h"

struct subscriber;

// What the broker has said of a new connection.
struct subscriber_session {
    bool wildcards; // it takes any; otherwise it may end the connection at one
    bool resumed;   // it has kept the session, with the filters of the connection before
};

struct subscriber_handlers {
    // Each time the broker has granted a subscription, or refused it (reason: 0x80 and above). said: it was refused before without having been granted since.
    void (*answered)(void *context, const struct mqtt_subscription *subscription, int reason,
                     enum again again, bool said);
    // Told what a call of libmosquitto returned.
    void (*result)(void *context, int result);
    void *context;
};

// The subscriptions must stay.
struct subscriber *subscriber_new(uv_loop_t *loop, const struct mqtt_subscription *subscriptions,
                                  size_t count, const struct subscriber_handlers *handlers);

// On a new connection: asks for all that the broker takes, and takes what was asked for a while out of a session that it
// has kept. version is that of MQTT.
void subscriber_begin(struct subscriber *subscriber, struct mosquitto *client, int version,
                      const struct subscriber_session *session);
// The connection is gone.
void subscriber_end(struct subscriber *subscriber);
// The broker has answered the request mid.
void subscriber_answer(struct subscriber *subscriber, int mid, int count, const int *granted);

// Whether each was answered once on this connection.
bool subscriber_is_answered(const struct subscriber *subscriber);
bool subscriber_has(const struct subscriber *subscriber, const char *filter);
// Asks for a filter for a while, with QoS 0; and no longer. What it has retained comes also where a lasting
// subscription wants none of it. A broker has one subscription with a filter, so that a lasting one with the same
// is asked for anew afterwards.
void subscriber_add(struct subscriber *subscriber, const char *filter);
void subscriber_remove(struct subscriber *subscriber, const char *filter);

// Whether a message that the broker retained comes although no subscription wants what is retained: 3.1.1 cannot say
// that it is not wanted.
bool subscriber_ignores(const struct subscriber *subscriber, const char *topic, bool retain);

// Closes the handles on the loop.
void subscriber_stop(struct subscriber *subscriber);
void subscriber_free(struct subscriber *subscriber);

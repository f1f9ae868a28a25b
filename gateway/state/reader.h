// Learns at the start of a run what the broker retains for devices. On a connection of its own, as
// {client_id}-reader: a broker with a lot of it (Mosquitto, unless max_queued_messages is large) drops other
// messages on that connection, even answers and acknowledgements. Where the broker does not accept a second
// connection (one that ties users to client ids), on the main one.
#pragma once

#include <stdbool.h>
#include <uv.h>

#include "gateway/broker/mqtt.h"
#include "gateway/config/config.h"

struct state_reader;

struct state_reader_handlers {
    void *context;
    // Something is retained; topic is what follows {prefix}/state/gw/.
    void (*received)(void *context, const char *topic, const struct mqtt_received *received);
    // All of it was heard, or it takes too long. Called once.
    void (*answered)(void *context);
};

// Connects at once; the link must be up, so that there is a broker. asker is that of the main connection.
// config stays the caller's, asker and handlers are copied.
struct state_reader *state_reader_new(uv_loop_t *loop, const struct config *config,
                                      const struct mqtt_asker *asker,
                                      const struct state_reader_handlers *handlers);

// The main connection is lost; something came on it under {prefix}/state/gw/, topic is what follows that.
// reader may be NULL, and may have ended.
void state_reader_link_down(struct state_reader *reader);
void state_reader_heard(struct state_reader *reader, const char *topic, const struct mqtt_received *received);

// Closes the handles on the loop; the memory goes with state_reader_free() after the loop has ended. NULL is
// allowed.
void state_reader_stop(struct state_reader *reader);
void state_reader_free(struct state_reader *reader);

// Whether an attempt to connect is still on a thread.
bool state_reader_is_connecting(const struct state_reader *reader);

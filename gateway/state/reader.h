// Learns at the start of a run what the broker retains for devices. On a connection of its own, with the client id
// {client_id}-reader: a broker with a lot of it (Mosquitto, unless max_queued_messages is 0) drops other messages on
// that connection, even answers and acknowledgements. Where the broker does not take that connection, or tells
// nothing there, it asks on the main one.
#pragma once

#include <stdbool.h>
#include <uv.h>

#include "gateway/broker/bus.h"
#include "gateway/config/config.h"

struct state_reader;

struct state_reader_handlers {
    void *context;
    // Something is retained, and came on the reader's own connection; topic is what follows {prefix}/state/gw/.
    void (*received)(void *context, const char *topic, const struct mqtt_received *received);
    // The same of what is announced to Home Assistant in the kind of discovery that is not in use.
    void (*discovered)(void *context, const struct mqtt_received *received);
    // All of it was heard, or it takes too long, which the log says. Called once.
    void (*answered)(void *context);
};

// Connects at once; the main link must be up, so that there is a broker. config and bus stay the caller's; asker, of
// the main connection, and handlers are copied.
struct state_reader *state_reader_new(uv_loop_t *loop, const struct config *config, const struct bus *bus,
                                      const struct mqtt_asker *asker,
                                      const struct state_reader_handlers *handlers);

// Something came on the main connection; topic is what follows {prefix}/state/gw/. NULL is allowed.
void state_reader_received(struct state_reader *reader, const char *topic,
                           const struct mqtt_received *received);

// Closes the handles on the loop; the memory goes with state_reader_free() after the loop has ended. NULL is
// allowed.
void state_reader_stop(struct state_reader *reader);
void state_reader_free(struct state_reader *reader);

// Whether an attempt to connect is still on a thread.
bool state_reader_is_connecting(const struct state_reader *reader);

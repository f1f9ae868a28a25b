// Learns at the start of a run what the broker retains of devices. On a connection of its own: a broker with
// a flood of it (Mosquitto, unless max_queued_messages is 0) drops what else it has to say on that
// connection, answers and acknowledgements too.
#pragma once

#include <stdbool.h>

struct gateway;
struct state_reader;

// Begins when the link is up, and calls state_answered() once: when all has been heard, or it takes too long.
struct state_reader *state_reader_new(struct gateway *gateway);

// Closes the handles on the loop; the memory goes with state_reader_free() after the loop has ended. NULL is
// allowed.
void state_reader_stop(struct state_reader *reader);
void state_reader_free(struct state_reader *reader);

// Whether an attempt to connect is still on a thread.
bool state_reader_is_connecting(const struct state_reader *reader);

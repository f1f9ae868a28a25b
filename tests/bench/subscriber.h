// Counts what arrives behind the broker, and how long each report took. It speaks
// MQTT 3.1.1 itself and on a thread of its own: a client library would cost more than what is measured.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/bench/histogram.h"

struct subscriber;

struct subscriber_totals {
    uint64_t received, bytes; // messages, and bytes of their payloads
    uint64_t unmatched;       // messages whose time of sending is not known (any more)
    double cpu;               // seconds
    struct histogram latency; // nanoseconds, of what came while measuring
};

// Nanoseconds that only grow.
uint64_t bench_clock(void);

// Connects to host (an IPv4 address) and subscribes to topic, a filter; the messages are only counted then. NULL: to
// all messages of trackbus; they are those of so many devices. With relaxed set it reads what has come once a millisecond, and takes less of the processor: for
// measuring how much arrives and not when. Ends the program when it cannot connect.
struct subscriber *subscriber_start(const char *host, int port, const char *topic, int qos, unsigned devices,
                                    bool relaxed);

// That a report is being written, from one thread only.
void subscriber_expect(struct subscriber *subscriber, unsigned device, unsigned sequence, uint64_t when);

uint64_t subscriber_received(const struct subscriber *subscriber); // until now
bool subscriber_has_ended(const struct subscriber *subscriber);    // the broker closed the connection
void subscriber_measure(struct subscriber *subscriber, bool measure);
// Ends the thread. The totals live as long as the program.
const struct subscriber_totals *subscriber_stop(struct subscriber *subscriber);

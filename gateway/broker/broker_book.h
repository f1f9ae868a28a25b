// The brokers of the configuration, and what was found of each while the program runs: the version of MQTT, and
// what it does not take. All links of one configuration share a book, so that they meet at the same broker.
// Used on the loop alone.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "gateway/broker/protocol_version.h"
#include "gateway/config/config.h"

struct broker {
    struct broker_address address;
    struct protocol_version version;
    bool said_old, said_limits, said_unheard; // in the log
    bool will_unretained, will_at_qos_0;      // as it takes no other one
};

struct broker_book;

// Where a link is on its way through the book.
struct broker_route {
    struct broker_book *book;
    struct broker *current;
    struct broker guest; // that a broker named for one connection; host NULL: none
    bool to_guest;       // the next attempt goes there
    size_t index;        // in the book: what current is, or what led to the guest
    size_t tried;        // brokers of this round that were away
    unsigned references; // followed since a connection lasted
};

// config must stay until broker_route_close().
void broker_route_open(struct broker_route *route, const struct config *config);
void broker_route_close(struct broker_route *route);

// Returns the broker for the next attempt, which is then current.
struct broker *broker_route_next(struct broker_route *route);
// The current one is away. Returns whether there is another one to try at once.
bool broker_route_failed(struct broker_route *route);
// The current one works, and is tried first from now on.
void broker_route_worked(struct broker_route *route);
// The connection has lasted, so that a broker may name others again.
void broker_route_lasted(struct broker_route *route);
// The current one names another one in its Server Reference: for the next connection, or (forever) to take its
// own place. False when there is no such broker, or too many have named others in a row.
bool broker_route_refer(struct broker_route *route, const char *reference, bool forever);
// Whether there are others besides the current one.
bool broker_route_has_others(const struct broker_route *route);

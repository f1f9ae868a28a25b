// What is said to a broker and what it says: the vocabulary that the link, the outbox and the store share.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Whether the broker keeps a message as the topic's last one. A signed one says whose it is: it carries our
// client_id as the user property "instance". One for a while is forgotten by the broker itself (MQTT 5), when nobody
// publishes it again within mqtt_link_expiry(). The store has these numbers.
enum mqtt_retain {
    MQTT_NOT_RETAINED,
    MQTT_RETAINED,
    MQTT_RETAINED_SIGNED,
    MQTT_RETAINED_FOR_A_WHILE,
};

// What the broker keeps of a connection that is gone: nothing; for ten minutes, with MQTT 5 and until we say goodbye, what
// comes for the subscriptions; or that for a week, whatever the version.
enum mqtt_session { MQTT_SESSION_NONE, MQTT_SESSION_BRIEF, MQTT_SESSION_LASTING };

struct mqtt_subscription {
    char *filter;
    int qos;
    int options; // MQTT_SUB_OPT_…
};

struct mqtt_publish {
    const char *topic;
    const void *payload;
    size_t length;
    int qos; // 0 or 1
    enum mqtt_retain retain;
    unsigned expiry;            // MQTT 5, seconds; 0: none. The link sets it
    const char *response_topic; // MQTT 5, or NULL; the outbox does not keep it
    const void *correlation;    // MQTT 5 correlation data, or NULL
    size_t correlation_length;
    int64_t
        measured; // when that was, which MQTT 5 says in the user property "timestamp": microseconds since 1970; 0:
                  // no such time. Never together with a correlation
    bool urgent; // goes out also while the broker wants us to send more slowly
    bool
        background; // others go first where not all can go at once; state and log entries do without being told
};

struct mqtt_received {
    const char *topic;
    const char *payload;
    size_t length;
    bool retain;
    int mid;              // its packet id, 1 to 65535; 0 at QoS 0
    uint64_t nth;         // of those with a packet id that have come since the start, from 1
    const char *instance; // that signed it, or NULL
    int64_t measured;     // as its user property "timestamp" says: microseconds since 1970; 0: it does not
    const char *response_topic; // or NULL
    const void *correlation;    // or NULL
    size_t correlation_length;
};

enum mqtt_publish_result {
    MQTT_SENT,    // handed over; the answer will say more
    MQTT_NOT_NOW, // not connected (any more): try again once it is; or the broker wants it slower: see ready()
    MQTT_REFUSED, // cannot be sent to this broker: too large, or the topic is not valid
};

// What the broker says about a message.
enum mqtt_answer {
    MQTT_TAKEN,
    MQTT_TAKEN_LATER, // refused for a reason that passes: a quota
    MQTT_NOT_TAKEN,   // refused without a reason that tells whether it will ever be taken
    MQTT_NEVER_TAKEN, // refused for a reason that lies in the message or in what we may publish
};

// Asks the broker what it retains: subscribes for a while, with QoS 0.
struct mqtt_asker {
    void *context;
    bool (*subscribe)(void *context, const char *filter); // false when not connected
    void (*unsubscribe)(void *context, const char *filter);
    // Only what others write from now on, nothing that is retained, until it is dropped: on each connection. See
    // hearing.h.
    void (*listen)(void *context, const char *filter);
    void (*drop)(void *context, const char *filter);
    void (*drop_inherited)(void *context, const char *filter);
    // Whether what we publish comes back on this connection: MQTT 3.1.1 cannot leave it out.
    bool (*echoes)(void *context);
};

// How a connection ended.
enum mqtt_end {
    MQTT_ENDED_BY_US,      // or by the broker for a reason that no message has
    MQTT_ENDED_BY_NETWORK, // reset or timed out; a broker that has not read all that we wrote does that too
    MQTT_ENDED_BY_BROKER,  // in good order, as one does that does not take a message; but so does a proxy
};

// What carries messages to the broker: the link, or a test's own broker. mid of publish() is set on MQTT_SENT
// and identifies the message in the answer.
struct mqtt_carrier {
    void *context;
    bool (*is_up)(void *context);
    // False when the connection has ended, although is_up() has not heard of that yet. Or NULL.
    bool (*is_alive)(void *context);
    // The answer never comes before publish() has returned.
    enum mqtt_publish_result (*publish)(void *context, const struct mqtt_publish *publish, int *mid);
    // How many publishes of QoS 1 may be unacknowledged on this connection, at least 1. Or NULL: any number.
    unsigned (*window)(void *context);
    // Called when the connection is lost: the next one soon brings something on. Or NULL.
    void (*got_on)(void *context);
    // Breaks the connection, to make a new one; why is a constant for the log.
    void (*reset)(void *context, const char *why);
    // What came just now is not acknowledged, nothing that is published leaves, and no more is read, until release() was
    // called as often as hold(); however many connections that takes. Or NULL.
    void (*hold)(void *context);
    void (*release)(void *context);
    // Whether something is held: then nothing is read. Or NULL.
    bool (*is_held)(void *context);
    // What came just now takes long: no more is read in this turn of the loop. Or NULL.
    void (*enough)(void *context);
    // Writes out what was published in this turn of the loop, so that it has left before what is done next; not while
    // something is held, nor within what the carrier calls. Or NULL.
    void (*flush)(void *context);
};

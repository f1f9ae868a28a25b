// What the files of the scripted broker share. All of it is guarded by the broker's lock: its thread holds it
// but for the time that it waits, and so does each call of a test.
#pragma once

#include <pthread.h>
#include <stdio.h>

#include "tests/e2e/scripted_broker.h"
#include "tests/e2e/scripted_broker_packet.h"

#define GROUP_TIME  200 // milliseconds that a rule waits for the rest of a group, unless it says how long
#define ALIASES_MAX 64
#define HELD_MAX    64

// A message on its way to subscribers, or retained; shared by all that hold it.
struct message {
    unsigned references;
    char *topic;
    uint8_t *payload;
    size_t length;
    uint8_t qos;
    bool retain, again;
    struct buffer properties; // that are passed on
};

struct subscription {
    char *filter;
    uint8_t qos, retain_handling;
    bool no_local, as_published, nothing;
    uint32_t id;
    struct subscription *next;
};

// A message that a session waits for, or has under way.
struct delivery {
    struct message *message;
    uint8_t qos;
    uint16_t packet_id;
    bool retain, sent, dup, acknowledged;
    struct buffer ids; // Subscription Identifiers, as properties
    struct delivery *prev, *next;
};

struct session {
    char *client;
    uint32_t expiry; // seconds
    int64_t ended;   // when its connection did
    struct connection *connection;
    struct subscription *subscriptions;
    struct delivery *queue;
    unsigned under_way; // of the queue, not acknowledged
    uint16_t last_id;
    struct session *next;
};

struct connection {
    unsigned number;
    int descriptor;
    struct buffer in, out;
    int version;
    bool waits;       // for its delayed CONNACK: nothing is read from it
    bool leaves;      // what is written still goes out, what comes is thrown away
    bool shut, gone;  // to be freed
    int64_t deadline; // when it leaves
    int64_t heard;
    unsigned keep_alive; // seconds
    struct scripted_limits limits;
    uint32_t receive_maximum, maximum_packet_size; // of the client
    struct session *session;
    struct past_connect *past; // its CONNECT; NULL before, and when it leaves
    bool assigned;             // its client id is the broker's choice
    struct message *will;
    unsigned will_delay; // seconds
    bool hold_will;
    bool unanswered[65536]; // publishes
    unsigned unanswered_count;
    uint16_t held[HELD_MAX]; // answers that a rule keeps back
    unsigned held_count;
    char *aliases[ALIASES_MAX + 1];
    struct connection *prev, *next;
};

struct rule {
    struct scripted_rule is;
    bool unset;
    unsigned matches, hits;
    int64_t second; // when the one began that rate counts in
    unsigned in_second;
};

// Something that is due later; connection is NULL when that is gone.
struct later;
typedef void later_act(struct scripted_broker *broker, struct connection *connection, struct later *later);
struct later {
    int64_t due;
    unsigned connection; // its number; 0: none
    later_act *act;
    struct message *message;
    char *text;
    struct buffer bytes;
    uint16_t packet_id;
    bool flag;
    const struct rule *rule;
    struct later *prev, *next;
};

// What came, with the memory that the public view points into.
struct past_connect {
    struct scripted_connect is;
    struct message *will;
};

struct past {
    void **items; // struct past_connect, scripted_publish, scripted_subscribe
    size_t count, capacity;
};

struct state { // what is on a real broker's disk
    struct message **retained;
    size_t retained_count, retained_capacity;
    struct session *sessions;
};

#define RULES_MAX 256 // of a test

struct scripted_broker {
    struct rig *rig;
    int port, listener, wake;
    bool runs, frozen, ends;
    pthread_t thread;
    pthread_mutex_t lock;
    FILE *trace;
    struct rule rules[RULES_MAX];
    int rule_count;
    struct connection *connections;
    unsigned last_connection;
    struct state state, snapshot;
    struct later *later;
    struct past connects, publishes, subscribes;
    struct buffer faults; // lines of text
};

// --- scripted_broker.c ---

int64_t scripted_clock(void); // milliseconds, monotonic
void trace(struct scripted_broker *broker, const struct connection *connection, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void lock(struct scripted_broker *broker);
void unlock(struct scripted_broker *broker); // and lets the thread look what there is to do
// The connection is over for clients and sessions at once; what is written still goes out. why: a constant.
void leave(struct scripted_broker *broker, struct connection *connection, const char *why);
struct later *do_later(struct scripted_broker *broker, const struct connection *connection, unsigned delay,
                       later_act *act);
void drop_later(struct scripted_broker *broker, struct later *later);
void past_add(struct past *past, void *item);

// --- scripted_broker_serve.c: packets of clients ---

// The next packet of those that have come; false: there is none.
bool serve(struct scripted_broker *broker, struct connection *connection);
// DISCONNECT with the reason, where there is one, and the end.
void disconnect(struct scripted_broker *broker, struct connection *connection, uint8_t reason,
                const struct scripted_rule *rule, const char *why);

// --- scripted_broker_publish.c: PUBLISH of clients ---

void on_publish(struct scripted_broker *broker, struct connection *connection, uint8_t flags,
                struct packet_reader *reader);

// --- scripted_broker_rules.c ---

struct packet_facts {
    enum scripted_event event;
    const char *client, *topic; // for SUBSCRIBE the filter
    int version;
    struct bytes payload;
    bool retain;
};

// The first rule that fits, or NULL. It is a hit unless the rule swaps, which is one later.
struct rule *find_rule(struct scripted_broker *broker, const struct packet_facts *facts);
// The client broke the protocol: the test fails, and the connection is closed with this reason.
void fault(struct scripted_broker *broker, struct connection *connection, uint8_t reason, const char *format,
           ...) __attribute__((format(printf, 4, 5)));

// --- scripted_broker_route.c: messages, sessions, what is retained ---

struct message *message_new(const char *topic, struct bytes payload, uint8_t qos, bool retain,
                            struct bytes properties);
struct message *message_keep(struct message *message);
void message_drop(struct message *message); // may be NULL

// To all sessions that subscribe to it; retained when it says so. from: who published it, or NULL.
void route(struct scripted_broker *broker, struct message *message, const struct session *from, bool strip);
struct message *find_retained(struct scripted_broker *broker, const char *topic);
void forget_retained(struct state *state, const char *filter); // NULL: all

struct session *find_session(struct scripted_broker *broker, const char *client);
struct session *session_new(struct scripted_broker *broker, const char *client);
void session_forget(struct scripted_broker *broker, struct session *session);
// Again under way what was not acknowledged, after a new connection.
void session_resume(struct scripted_broker *broker, struct session *session);
void session_acknowledged(struct scripted_broker *broker, struct session *session, uint16_t packet_id);
// The subscription, new or renewed; is_new says which.
struct subscription *subscribe(struct session *session, const char *filter, bool *is_new);
bool unsubscribe(struct session *session, const char *filter);
void deliver_retained(struct scripted_broker *broker, struct session *session, const char *filter,
                      bool reversed);

void copy_retained(struct state *to, const struct state *from);
void state_copy(struct state *to, const struct state *from); // of the sessions what outlives a connection
void state_free(struct state *state);
void sessions_free(struct state *state);

// A scripted broker: an MQTT broker (3.1.1 and 5) of the tests' own, for what no real broker does on request.
// It routes like any other (wildcards, QoS 0 and 1, retained messages, Last Will, sessions, properties) until
// a rule tells it to refuse, to be silent, to be late, to close or to forget.
//
//     TestSuite(refusals, .fini = rig_clean);
//
//     struct rig *rig = rig_new();
//     struct scripted_broker *broker = scripted_broker_start(rig); // the rig's client and gateway connect to
//     it rig_client_start(rig); int rule = scripted_broker_set(broker, (struct scripted_rule){.on =
//     SCRIPTED_PUBLISH,
//                                                                   .topic = "trackbus/message/#",
//                                                                   .from = 3,
//                                                                   .times = 1,
//                                                                   .disconnect = 0x97});
//     rig_gateway_start(rig, NULL);
//     ...
//     scripted_expect_hits(broker, rule, 1); // it did what the test is about
//     scripted_broker_finish(broker);        // instead of rig_finish()
//
// It is a thread of the test's process: it ends with the test, however that ends. What it saw stands in the
// rig's broker.log, which the rig shows when a test fails. Topics and filters are whole here. It accepts QoS
// 1 at most and no shared subscriptions, and says so in CONNACK.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/e2e/rig.h"

struct scripted_broker;

// Listens on a free port of 127.0.0.1, which becomes the rig's. A rig may have several; its port is the last
// one's.
struct scripted_broker *scripted_broker_start(struct rig *rig);
int scripted_broker_port(struct scripted_broker *broker);
// Stops the rig's gateways, which must end well, and the broker. Fails the test if a client broke the
// protocol, or a limit that CONNACK told it. The last line of a test; frees the broker.
void scripted_broker_finish(struct scripted_broker *broker);
// Ends the broker alone, with the same check, where the rig goes on without it.
void scripted_broker_end(struct scripted_broker *broker);

// What the clients did wrong, a line each, for the caller to free; forgotten by this. NULL: nothing.
char *scripted_broker_take_faults(struct scripted_broker *broker);

// --- rules ---

enum scripted_event { SCRIPTED_CONNECT, SCRIPTED_PUBLISH, SCRIPTED_SUBSCRIBE };

enum scripted_answer {
    SCRIPTED_ANSWERS,      // as the reason says
    SCRIPTED_SILENT,       // keeps the connection, and never answers
    SCRIPTED_CLOSES,       // the connection, instead of answering
    SCRIPTED_CLOSES_AFTER, // the answer
    SCRIPTED_OLD,          // CONNECT of version 5: return code 1 in the format of 3.1.1, then closes
};

// What CONNACK tells a client of version 5, and what the broker then holds it to. Left out: not said.
struct scripted_limits {
    uint32_t maximum_packet_size;
    uint16_t receive_maximum;
    uint16_t server_keep_alive; // seconds
    uint16_t topic_alias_maximum;
    int64_t session_expiry; // seconds; -1 says 0
    bool only_qos_0, no_retain, no_wildcards, no_subscription_ids;
};

// Which packets a rule is for, and what happens to them. What is left out restricts nothing and does nothing.
// The first rule that fits a packet is the one that acts. Texts must live as long as the rule.
struct scripted_rule {
    enum scripted_event on;
    // --- which: all of these must hold
    const char *client;     // pattern of client ids, as for files: "*-reader"
    int version;            // 4 (MQTT 3.1.1) or 5
    const char *topic;      // filter with + and # for PUBLISH; the very filter for SUBSCRIBE
    const char *containing; // text in the payload of a PUBLISH
    size_t larger_than;     // bytes of the payload
    bool retained;          // only a PUBLISH with the retain flag
    unsigned rate;          // only what is more than so many matches within a second
    unsigned from;          // acts from this match on, counted from 1
    unsigned times;         // acts so many times; 0: without end
    // --- what
    enum scripted_answer answer;
    uint8_t reason;     // of CONNACK, PUBACK, SUBACK; from 0x80 on it is a refusal. 3.1.1: the nearest it has
    uint8_t disconnect; // DISCONNECT with this reason (3.1.1: none), then closes; before the answer, or after
                        // it with SCRIPTED_CLOSES_AFTER
    const char *text;   // Reason String
    const char *server_reference;
    unsigned delay; // milliseconds before the answer
    // --- CONNECT
    struct scripted_limits limits;
    bool hold_will;     // its Last Will is not published by itself; see scripted_broker_publish_will()
    bool no_will_delay; // its Will Delay does not count: the Last Will goes out at once
    // --- PUBLISH
    bool drop;        // answered, but neither routed nor retained
    bool taken;       // routed although the answer is SCRIPTED_CLOSES
    bool strip;       // retained without its user properties
    unsigned reverse; // answers of so many matches are kept back, and given the last one first. Fewer: after
                      // `delay`, or 200 ms
    bool swap;  // a retained write waits for the next one to its topic by the same client, and is done after
                // it: the older value stays. It is a hit when there was one; else the write is done after
                // `delay`, or 200 ms
    bool again; // QoS 1: delivered once more, with DUP, at the subscriber's next connection, although
                // acknowledged
    // --- SUBSCRIBE
    unsigned retained_delay; // milliseconds from SUBACK to what is retained then
    bool retained_reversed;  // what is retained comes in the opposite order
    bool not_own;            // granted, but the client's own messages do not come back
    bool nothing;            // granted, but nothing is delivered: no right to read
};

// Adds a rule, before the start of the clients or while they run; returns its number.
int scripted_broker_set(struct scripted_broker *broker, struct scripted_rule rule);
void scripted_broker_unset(struct scripted_broker *broker, int rule);
// How many times a rule acted, also after it was unset.
unsigned scripted_broker_hits(struct scripted_broker *broker, int rule);
void scripted_expect_hits(struct scripted_broker *broker, int rule, unsigned at_least);

// --- what happens now ---

// What a broker has after a restart.
enum scripted_memory {
    SCRIPTED_FORGETS = 0,
    SCRIPTED_RETAINED = 1,
    SCRIPTED_SESSIONS = 2,
    SCRIPTED_SNAPSHOT = 4, // as they were at the snapshot, instead of at the end
};

// Stops as if killed: no connection gets another byte, no Last Will goes out.
void scripted_broker_stop(struct scripted_broker *broker);
// On the same port. memory: enum scripted_memory, added up.
void scripted_broker_restart(struct scripted_broker *broker, unsigned memory);
// Remembers what is retained, and the sessions with what waits in them; one snapshot at a time.
void scripted_broker_snapshot(struct scripted_broker *broker);
// Retained messages fall back to the snapshot, or are gone where the filter matches, and no client is told.
void scripted_broker_restore_retained(struct scripted_broker *broker);
void scripted_broker_forget_retained(struct scripted_broker *broker, const char *filter);
void scripted_broker_freeze(struct scripted_broker *broker); // connected, and deaf
void scripted_broker_thaw(struct scripted_broker *broker);

// Ends the connections of clients that match: DISCONNECT with the reason (0: none), then closes. 0x8E is what
// a client hears whose session another one takes over.
void scripted_broker_disconnect(struct scripted_broker *broker, const char *client, uint8_t reason);
// Publishes the Last Will of this client's latest connection that has ended, once more or late.
void scripted_broker_publish_will(struct scripted_broker *broker, const char *client);
// Publishes as some other client would, at QoS 1.
void scripted_broker_publish(struct scripted_broker *broker, const char *topic, const char *payload,
                             bool retain);

// --- what came: all of it good until the end of the broker, or until it is forgotten ---

struct scripted_connect {
    const char *client;
    int version; // 4 or 5
    bool clean_start;
    uint16_t keep_alive;      // seconds
    uint32_t session_expiry;  // seconds
    uint32_t receive_maximum; // 65535 when not said
    uint32_t maximum_packet_size;
    const char *username, *password; // or NULL
    const char *will_topic;          // or NULL: no Last Will
    const char *will_payload, *will_user_properties;
    int will_qos;
    bool will_retain;
    uint32_t will_delay; // seconds
    int64_t time;        // milliseconds, monotonic
    int reason;          // of the CONNACK; -1: none yet
    const char *end;     // how it ended, a constant; NULL while it lasts
    int end_reason;      // of the client's DISCONNECT; -1: there was none
};

struct scripted_publish {
    const char *client, *topic;
    const char *payload; // ends with a NUL, which length does not count
    size_t length;
    uint16_t packet_id;
    int qos;
    bool retain, dup;
    const char *response_topic, *correlation, *content_type; // or NULL
    const char *user_properties;                             // "name=value\n" each, in order
    int64_t expiry;                                          // seconds; -1: none
    int64_t time;                                            // milliseconds, monotonic
    unsigned connection;                                     // its number, from 1, over all clients
};

struct scripted_subscribe {
    const char *client, *filter;
    int qos, retain_handling;
    bool no_local;
    uint32_t id; // Subscription Identifier; 0: none
    int reason;  // that it was answered with
};

// Counts, and the nth (from 0; NULL when there are not so many). client: a pattern; filter: with + and #;
// containing: text in the payload. NULL: any.
size_t scripted_broker_connects(struct scripted_broker *broker, const char *client);
const struct scripted_connect *scripted_broker_connect_at(struct scripted_broker *broker, const char *client,
                                                          size_t nth);
bool scripted_broker_is_connected(struct scripted_broker *broker, const char *client);
size_t scripted_broker_publishes(struct scripted_broker *broker, const char *filter, const char *containing);
const struct scripted_publish *scripted_broker_publish_at(struct scripted_broker *broker, const char *filter,
                                                          const char *containing, size_t nth);
// Here the filter is the one that the client asked for, character by character.
size_t scripted_broker_subscribes(struct scripted_broker *broker, const char *client, const char *filter);
const struct scripted_subscribe *scripted_broker_subscribe_at(struct scripted_broker *broker,
                                                              const char *client, const char *filter,
                                                              size_t nth);
// Payload that is retained now, as text, for the caller to free; NULL: nothing.
char *scripted_broker_retained(struct scripted_broker *broker, const char *topic);
size_t scripted_broker_count_retained(struct scripted_broker *broker, const char *filter);
// Forgets all that came, for a long run.
void scripted_broker_forget_past(struct scripted_broker *broker);

// Waits with the rig's deadline, and fails the test then.
const struct scripted_connect *scripted_expect_connects(struct scripted_broker *broker, const char *client,
                                                        size_t at_least);
void scripted_expect_connected(struct scripted_broker *broker, const char *client);
void scripted_expect_ended(struct scripted_broker *broker, const char *client); // no connection is left
const struct scripted_publish *scripted_expect_publishes(struct scripted_broker *broker, const char *filter,
                                                         const char *containing, size_t at_least);
const struct scripted_subscribe *scripted_expect_subscribes(struct scripted_broker *broker,
                                                            const char *client, const char *filter,
                                                            size_t at_least);
void scripted_expect_retained(struct scripted_broker *broker, const char *topic, const char *text);

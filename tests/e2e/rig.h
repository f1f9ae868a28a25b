// The rig of the end-to-end tests: a Mosquitto of the test's own, the real trackbus beside it, an MQTT client
// that keeps all that is published, and devices on TCP and UDP.
//
// Nothing here sleeps for a fixed time: everything waits for a condition and gives up at a deadline. Nothing
// outlives the test: what runs is killed by the kernel when the test's process ends, however it ends; a
// gateway's workers stop by themselves then.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "tests/temporary.h"

#define RIG_DEADLINE 15000 // milliseconds, generous: a busy machine is no fault
#define RIG_USER     "rig"
#define RIG_PASSWORD "secret"

// The devices that most tests are about: two of Mictrack and one of Magicyo.
#define VAN   "866425031361423"
#define CAR   "866425031377981"
#define LORRY "864867022511015"
// What the gateway says of itself.
#define INSTANCE "state/gw/instances/trackbus"

// For TestSuite(): prints what the programs said when the test failed, ends them, removes the files.
void rig_clean(void);

struct rig_message {
    char *topic;
    char *payload; // ends with a NUL, which length does not count
    size_t length;
    bool retain;
    char *correlation; // or NULL
    char *timestamp;   // its user property, or NULL
    bool taken;        // has met an expectation
};

struct rig {
    char directory[TEMPORARY_MAX];
    int broker_port;
    pid_t broker, gateway;
    char log_path[96]; // what the gateway said
    struct rig_client *client;
    const char *topic_prefix; // "trackbus"; a test may change it
    unsigned workers;         // processes that share the ports; 0, unless a test changes it: run without
    const char *clock; // of the gateway as libfaketime reads it: "+0 x60" is 60 times as fast; NULL: as it is
    size_t sockets;    // that the configuration opens in each process
    size_t states;     // of channels, that had come when it was started
    struct rig *beside; // another gateway on the same broker, or NULL
    bool finished;      // the test came to its end
};

// The parts one by one. One rig a test; rig_clean() frees it.
struct rig *rig_new(void);

// Extra lines for the broker's configuration, or NULL. The port is the same each time.
void rig_broker_start(struct rig *rig, const char *extra);
void rig_broker_reserve(struct rig *rig); // chooses the port alone
void rig_broker_kill(struct rig *rig);    // SIGKILL
void rig_broker_wipe(struct rig *rig);    // forgets what the killed broker had on its disk
// With "persistence true": what it has now is what it has again after the fall, in which it is killed. extra as
// for rig_broker_start().
void rig_broker_save(struct rig *rig);
void rig_broker_fall_back(struct rig *rig, const char *extra);
void rig_broker_restore(struct rig *rig); // of the fall, only the disk of the killed broker
void rig_broker_freeze(struct rig *rig);  // SIGSTOP: connected, and deaf
void rig_broker_thaw(struct rig *rig);
// One of 127.0.0.1 that is free for TCP and UDP.
int rig_free_port(void);
// Lines for a broker that writes each change to its disk.
#define RIG_BROKER_KEEPS "persistence true\nautosave_interval 1\nautosave_on_changes true\n"
// The limits that Debian's broker has by default.
#define RIG_BROKER_LIMITS "max_inflight_messages 20\nmax_queued_messages 1000\nqueue_qos0_messages false\n"
// Lines for a broker that asks for RIG_USER and RIG_PASSWORD.
const char *rig_broker_password_lines(struct rig *rig);

// Connects the client, now and whenever the broker comes back. Keeps its session.
void rig_client_start(struct rig *rig);

// Writes the configuration: one mictrack channel on free ports, changed by JSON (or NULL) as in a JSON merge;
// starts the gateway and waits until its channels listen.
void rig_gateway_start(struct rig *rig, const char *changes);
void rig_gateway_spawn(struct rig *rig, const char *changes); // does not wait
void rig_gateway_signal(struct rig *rig, int number);
int rig_gateway_wait(struct rig *rig);  // for its end; the exit code, or minus the signal
void rig_gateway_stop(struct rig *rig); // SIGTERM, and the exit code must be 0
void rig_gateway_kill(struct rig *rig); // SIGKILL
// Spawns the gateway, which must end by itself with code 1 and say why in the log. Needs no broker.
void rig_expect_no_start(struct rig *rig, const char *changes, const char *why);
// The process of a worker; they count from 1.
pid_t rig_worker(struct rig *rig, unsigned number);
// As rig_gateway_wait(), for a process that the gateway started and that has outlived it.
int rig_orphan_wait(pid_t process);
// Writes a file of that name into the rig's directory, whole at once, as an editor does.
void rig_write_file(struct rig *rig, const char *name, const char *text);
void rig_write_json(struct rig *rig, const char *name, const char *text); // as rig_json() reads it
// Writes the configuration alone; path is that of the file.
void rig_write_config(struct rig *rig, const char *changes, char *path, size_t capacity);

// From now on the gateways of this test speak only that version of MQTT ("3.1.1"); see mqtt.version.
void rig_speak(const char *version);

// From now on the gateways of this test sign commands with RIG_KEY; see commands.key_file.
#define RIG_KEY "what only the gateways of a test know"
void rig_share_key(void);

// Waits until the gateway publishes state, since its last start; before that it hears what the broker retains.
void rig_expect_state(struct rig *rig);

// Everything but the gateway: a broker, with these lines of configuration or NULL, and the client.
struct rig *rig_with_broker(const char *extra);
// Everything, and the gateway publishes state.
struct rig *rig_up(const char *changes);
// The same with a clock for the gateway, see clock: for what takes it seconds.
struct rig *rig_up_at(const char *clock, const char *changes);
// A rig for one more gateway on the same broker, with the same client; its own client_id is for its
// configuration to say. It goes with the first one. A third is beside the second.
struct rig *rig_beside(struct rig *rig);
// Stops the gateways, which must end well. The last line of a test.
void rig_finish(struct rig *rig);

// The numbers from 0 to count - 1, at most 64, as parameters of a test.
size_t *rig_rows(size_t count);

// --- waiting ---

int64_t rig_clock(void); // milliseconds; only goes forward
// For what only the passing of time brings about.
void rig_wait_until(int64_t time);

typedef bool rig_condition(void *context);
bool rig_wait(rig_condition *condition, void *context, int milliseconds);

// To expect is to wait until the deadline and then to fail the test. Here: the log has the text.
void rig_expect_log(struct rig *rig, const char *text);
void rig_expect_log_times(struct rig *rig, const char *text, size_t least);
// Asks the gateway for its counters until the log has the text.
void rig_expect_counters(struct rig *rig, const char *text);
void rig_expect_counters_within(struct rig *rig, const char *text, int milliseconds);
bool rig_log_has(struct rig *rig, const char *text);
size_t rig_log_count(struct rig *rig, const char *text);

// Waits for a message on a topic that matches filter and whose JSON contains what subset says (NULL: any
// payload), and takes it, so that each message meets one expectation. Topics here are without the prefix; one
// that begins with / is whole.
const struct rig_message *rig_expect_message(struct rig *rig, const char *filter, const char *subset,
                                             int deadline);
// The same with the usual deadline.
const struct rig_message *rig_expect(struct rig *rig, const char *filter, const char *subset);
// How many messages came on topics that match, taken or not.
size_t rig_count(struct rig *rig, const char *filter);
// Waits until so many have come; for a minute, as it may be thousands.
void rig_expect_count(struct rig *rig, const char *filter, size_t least);
// The next message on topics that match, or NULL. *next is 0 to begin with, and then kept by rig_next().
const struct rig_message *rig_next(struct rig *rig, const char *filter, size_t *next);
// The nth of them (from 0), or NULL.
const struct rig_message *rig_message_at(struct rig *rig, const char *filter, size_t nth);

// What the broker retains now on topics that match: an object with the payloads as texts, by whole topic, for
// the caller to release. Do not count what comes live on these topics afterwards: it may come twice for a
// moment.
json_t *rig_retained(struct rig *rig, const char *filter);
// Waits until the broker retains exactly this text on the topic (NULL: nothing).
void rig_expect_standing(struct rig *rig, const char *topic, const char *text);
// Waits until it retains JSON there that contains what subset says, and returns that, to release.
json_t *rig_expect_standing_json(struct rig *rig, const char *topic, const char *subset);
// How many messages the broker retains on topics that match.
size_t rig_count_retained(struct rig *rig, const char *filter);
// Waits until that is none.
void rig_expect_none_retained(struct rig *rig, const char *filter);

bool rig_json_contains(const json_t *whole, const json_t *part);
// A message as JSON, for the caller to release.
json_t *json_of(const struct rig_message *message);
// Reads JSON with ' in place of ", which is easier to write in C.
json_t *rig_json(const char *text);

// --- publishing ---

void rig_publish(struct rig *rig, const char *topic, const char *text);
void rig_publish_soon(struct rig *rig, const char *topic, const char *text); // without waiting for the broker
void rig_publish_bytes(struct rig *rig, const char *topic, const void *bytes, size_t length);
void rig_publish_retained(struct rig *rig, const char *topic, const char *text); // empty: no longer
void rig_request(struct rig *rig, const char *topic, const char *text, const char *response_topic,
                 const char *correlation);

// Starts Mosquitto's own client for requests, which publishes the command and waits 30 seconds for the
// answer.
FILE *rig_mosquitto_rr(struct rig *rig, const char *topic, const char *command);
// Waits for the answer, which must come. The text is good until the next call.
const char *rig_mosquitto_rr_answer(FILE *process);

// --- devices ---

// Ports of the channel of that name.
int rig_tcp_port(struct rig *rig, const char *channel);
int rig_udp_port(struct rig *rig, const char *channel);

// Sockets connected to that channel by 127.0.0.1.
int rig_tcp_to(struct rig *rig, const char *channel);
int rig_udp_to(struct rig *rig, const char *channel);

// Sockets connected to the channel "mictrack" by "127.0.0.1" or "::1".
int rig_tcp(struct rig *rig);
int rig_tcp_at(const char *host, int port);
int rig_tcp_from(struct rig *rig, const char *source); // from that address, 127.0.0.2 for instance
int rig_udp(struct rig *rig);
int rig_udp_at(const char *host, int port);
bool rig_has_ipv6(void);

void device_send(int device, const char *text);
void device_send_bytes(int device, const void *bytes, size_t length);
void device_send_hex(int device, const char *hex);
void device_send_junk(int device); // 3000 bytes that are of no protocol
// The next bytes must be this text, before the deadline.
void device_expect(int device, const char *text);
void device_expect_bytes(int device, const void *bytes, size_t length);
void device_expect_hex(int device, const char *hex);
// The next datagram must be this text.
void device_expect_datagram(int device, const char *text);
bool device_has_bytes(int device); // now: says something only where nothing can follow any more
// Once the gateways have stopped: all that they have sent was expected.
void device_expect_no_more(int device);
// The gateway closes the connection, without saying a word.
void device_expect_closed(int device);
int device_port(int device); // its own

// Text of a report; the memory is good for the next 15 calls.
const char *report(const char *ident, int seqnum);
// The number of the report that a message is of.
int seqnum_of(const struct rig_message *message);

// The scripted broker itself: Mosquitto's own clients and bare packets against it, so that other tests may
// trust what it does; and the gateway in front of it.
#include <criterion/criterion.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

#include "tests/e2e/rig.h"
#include "tests/e2e/scripted_broker.h"
#include "tests/e2e/scripted_broker_packet.h"

TestSuite(scripted_broker, .fini = rig_clean);

#define VAN "866425031361423"

static struct scripted_broker *up(void) {
    return scripted_broker_start(rig_new());
}

// --- Mosquitto's clients: sub, pub and rr stand for their names with the broker's address ---

static FILE *begin(struct scripted_broker *broker, const char *format, va_list values) {
    char arguments[512], call[640];
    vsnprintf(arguments, sizeof arguments, format, values);
    const char *rest = strchr(arguments, ' ');
    cr_assert(rest != NULL);
    snprintf(call, sizeof call, "exec timeout 30 mosquitto_%.*s -h 127.0.0.1 -p %d%s 2>&1",
             (int)(rest - arguments), arguments, scripted_broker_port(broker), rest);
    FILE *process = popen(call, "re");
    cr_assert(process != NULL);
    return process;
}

__attribute__((format(printf, 2, 3))) static FILE *begins(struct scripted_broker *broker, const char *format,
                                                          ...) {
    va_list values;
    va_start(values, format);
    FILE *process = begin(broker, format, values);
    va_end(values);
    return process;
}

// What it prints until its end; the memory is good for the next 7 calls.
static const char *said(FILE *process) {
    static char texts[8][4096];
    static unsigned turn;
    char *text = texts[turn++ % 8];
    text[fread(text, 1, sizeof texts[0] - 1, process)] = '\0';
    pclose(process);
    return text;
}

__attribute__((format(printf, 2, 3))) static const char *runs(struct scripted_broker *broker,
                                                              const char *format, ...) {
    va_list values;
    va_start(values, format);
    FILE *process = begin(broker, format, values);
    va_end(values);
    return said(process);
}

static void expect_text(const char *came, const char *expected) {
    cr_assert_str_eq(came, expected, "came     %s\nexpected %s", came, expected);
}

static void expect_part(const char *came, const char *part) {
    cr_assert(strstr(came, part) != NULL, "came     %s\nexpected %s", came, part);
}

// --- bare packets, in hexadecimal ---

static size_t from_hex(const char *hex, uint8_t *bytes) {
    size_t length = 0;
    int read;
    for (unsigned value; sscanf(hex, " %2x%n", &value, &read) == 1; hex += read)
        bytes[length++] = (uint8_t)value;
    return length;
}

static void send_hex(int client, const char *hex) {
    uint8_t bytes[512];
    device_send_bytes(client, bytes, from_hex(hex, bytes));
}

static void expect_hex(int client, const char *hex) {
    uint8_t bytes[512];
    device_expect_bytes(client, bytes, from_hex(hex, bytes));
}

#define CONNECT_4 "10 0D 0004 4D515454 04 02 003C 0001 61"    // client "a", clean
#define CONNECT_5 "10 0E 0004 4D515454 05 02 003C 00 0001 61" // the same
#define CONNACK_5 "20 07 00 00 04 24 01 2A 00"
// QoS 1 to "t": payload "1" as packet 1, "2" as packet 2, "3" as packet 3.
#define PUBLISH_1 "32 07 0001 74 0001 00 31"
#define PUBLISH_2 "32 07 0001 74 0002 00 32"
#define PUBLISH_3 "32 07 0001 74 0003 00 33"
#define SUBSCRIBE "82 07 0009 00 0001 74 01"
#define SUBACK    "90 04 0009 00 01"
#define PING      "C0 00"
#define PONG      "D0 00"

static int connected_5(struct scripted_broker *broker) {
    int client = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
    send_hex(client, CONNECT_5);
    expect_hex(client, CONNACK_5);
    return client;
}

// All that was sent has been answered, and there was nothing else.
static void expect_quiet(int client) {
    send_hex(client, PING);
    expect_hex(client, PONG);
}

static void finish(struct scripted_broker *broker) {
    scripted_broker_finish(broker);
#ifdef __SANITIZE_ADDRESS__
    cr_assert(__lsan_do_recoverable_leak_check() == 0, "the broker leaks");
#endif
}

// --- routing ---

static const struct {
    const char *filter, *topic;
    bool matches;
} matches[] = {
    {"a/b", "a/b", true},     {"a/b", "a/bc", false},    {"a/bc", "a/b", false},   {"a/+", "a/b", true},
    {"a/+", "a/", true},      {"a/+", "a", false},       {"a/+", "a/b/c", false},  {"+/+", "/b", true},
    {"+", "/b", false},       {"a/#", "a", true},        {"a/#", "a/b/c", true},   {"a/#", "ab", false},
    {"#", "a/b", true},       {"#", "$SYS/a", false},    {"+/a", "$SYS/a", false}, {"$SYS/#", "$SYS/a", true},
    {"a/+/c", "a/b/c", true}, {"a/+/c", "a/b/d", false}, {"a//c", "a//c", true},   {"a/+/c", "a//c", true},
    {"a/+/#", "a/b", true},   {"a/b/", "a/b", false},    {"a/b", "a/b/", false},
};

Test(scripted_broker, matches_topics) {
    for (size_t i = 0; i < sizeof matches / sizeof *matches; i++)
        cr_assert(topic_matches(matches[i].filter, matches[i].topic) == matches[i].matches, "%s, %s",
                  matches[i].filter, matches[i].topic);
}

static void expect_routed(struct scripted_broker *broker, const char *version, int qos) {
    size_t before = scripted_broker_subscribes(broker, NULL, "a/+/#");
    FILE *sub = begins(broker, "sub -V %s -q %d -t 'a/+/#' -C 2 -F '%%t %%q %%r %%p'", version, qos);
    scripted_expect_subscribes(broker, NULL, "a/+/#", before + 1);
    runs(broker, "pub -V %s -q %d -t b/c/d -m none", version, qos);
    runs(broker, "pub -V %s -q %d -t a/b/c -m one", version, qos);
    runs(broker, "pub -V %s -q %d -t a/b -r -m two", version, qos);
    char expected[64];
    snprintf(expected, sizeof expected, "a/b/c %d 0 one\na/b %d 0 two\n", qos, qos);
    expect_text(said(sub), expected);
}

Test(scripted_broker, routes_in_both_versions_at_both_levels) {
    struct scripted_broker *broker = up();
    expect_routed(broker, "311", 0);
    runs(broker, "pub -V 5 -q 1 -t a/b -r -n");
    expect_routed(broker, "5", 1);
    cr_assert(scripted_broker_publishes(broker, "a/b/c", "one") == 2);
    cr_assert(scripted_broker_publish_at(broker, "a/b/c", NULL, 0)->qos == 0);
    cr_assert(scripted_broker_publish_at(broker, "a/b/c", NULL, 1)->qos == 1);
    cr_assert(scripted_broker_publish_at(broker, "a/b/c", NULL, 2) == NULL);
    finish(broker);
}

Test(scripted_broker, passes_properties_on) {
    struct scripted_broker *broker = up();
    FILE *sub = begins(broker, "sub -V 5 -t t -C 1 -F '%%R %%D %%C %%P'");
    scripted_expect_subscribes(broker, NULL, "t", 1);
    runs(broker, "pub -V 5 -q 1 -t t -m x -D publish response-topic r/1 -D publish correlation-data c7"
                 " -D publish content-type text -D publish user-property a b"
                 " -D publish user-property c d");
    expect_text(said(sub), "r/1 c7 text a:b c:d\n");
    const struct scripted_publish *publish = scripted_expect_publishes(broker, "t", NULL, 1);
    expect_text(publish->user_properties, "a=b\nc=d\n");
    expect_text(publish->response_topic, "r/1");
    expect_text(publish->correlation, "c7");
    finish(broker);
}

Test(scripted_broker, serves_requests_and_responses) {
    struct scripted_broker *broker = up();
    FILE *rr = begins(broker, "rr -V 5 -t ask -e answers/1 -m question");
    const struct scripted_publish *question = scripted_expect_publishes(broker, "ask", "question", 1);
    expect_text(question->response_topic, "answers/1");
    runs(broker, "pub -V 5 -q 1 -t answers/1 -m answer");
    expect_text(said(rr), "answer\n");
    finish(broker);
}

Test(scripted_broker, retains) {
    struct scripted_broker *broker = up();
    runs(broker, "pub -V 5 -q 1 -r -t s/a -m 1 -D publish user-property k v");
    runs(broker, "pub -q 0 -r -t s/b -m 2");
    runs(broker, "pub -q 1 -r -t s/a -m 3 -V 5 -D publish user-property k w");
    expect_text(runs(broker, "sub -V 5 -q 1 -t 's/#' -C 2 -F '%%t %%q %%r %%p %%P'"),
                "s/a 1 1 3 k:w\ns/b 0 1 2 \n");
    scripted_expect_retained(broker, "s/a", "3");
    runs(broker, "pub -q 1 -r -t s/a -n");
    scripted_expect_retained(broker, "s/a", NULL);
    cr_assert(scripted_broker_count_retained(broker, "#") == 1);
    finish(broker);
}

// Retain handling 1: only for a new subscription; 2: never.
Test(scripted_broker, keeps_to_retain_handling) {
    struct scripted_broker *broker = up();
    scripted_broker_publish(broker, "t", "x", true);
    int client = connected_5(broker);
    send_hex(client, "82 07 0001 00 0001 74 20");
    expect_hex(client, "90 04 0001 00 00");
    expect_quiet(client);
    send_hex(client, "82 07 0002 00 0001 74 10");
    expect_hex(client, "90 04 0002 00 00");
    expect_quiet(client); // it was there
    send_hex(client, "A2 06 0003 00 0001 74");
    expect_hex(client, "B0 04 0003 00 00");
    send_hex(client, "82 07 0004 00 0001 74 10");
    expect_hex(client, "90 04 0004 00 00 31 05 0001 74 00 78");
    send_hex(client, "82 07 0005 00 0001 74 00");
    expect_hex(client, "90 04 0005 00 00 31 05 0001 74 00 78");
    finish(broker);
}

Test(scripted_broker, tells_subscriptions_by_their_identifiers_and_own_messages) {
    struct scripted_broker *broker = up();
    int client = connected_5(broker);
    send_hex(client, "82 09 0001 02 0B07 0001 74 01"); // identifier 7
    expect_hex(client, "90 04 0001 00 01");
    send_hex(client, PUBLISH_1);
    expect_hex(client, "32 09 0001 74 0001 02 0B07 31 40 02 0001");
    send_hex(client, "40 02 0001");
    send_hex(client, "82 09 0002 02 0B07 0001 74 05"); // no local
    expect_hex(client, "90 04 0002 00 01");
    send_hex(client, PUBLISH_1);
    expect_hex(client, "40 02 0001");
    expect_quiet(client);
    finish(broker);
}

// --- Last Will ---

#define WILL "--will-topic will --will-payload gone --will-retain --will-qos 1"

static int connected_with_will(struct scripted_broker *broker) { // after 0 s
    int client = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
    send_hex(client, "10 18 0004 4D515454 04 26 003C 0001 61 0004 77696C6C 0003 627965");
    expect_hex(client, "20 02 00 00");
    return client;
}

Test(scripted_broker, publishes_the_last_will) {
    struct scripted_broker *broker = up();
    close(connected_with_will(broker));
    scripted_expect_retained(broker, "will", "bye");
    const struct scripted_connect *connect = scripted_broker_connect_at(broker, "a", 0);
    cr_assert(connect->will_retain && connect->will_qos == 0 && connect->version == 4);
    expect_text(connect->will_topic, "will");
    expect_text(connect->will_payload, "bye");
    finish(broker);
}

Test(scripted_broker, publishes_no_will_of_a_client_that_says_goodbye) {
    struct scripted_broker *broker = up();
    runs(broker, "sub -V 5 -i a -t x -E " WILL);
    scripted_expect_ended(broker, "a");
    const struct scripted_connect *connect = scripted_broker_connect_at(broker, "a", 0);
    expect_text(connect->end, "DISCONNECT");
    cr_assert(connect->end_reason == 0);
    cr_assert(scripted_broker_count_retained(broker, "#") == 0);
    finish(broker);
}

Test(scripted_broker, publishes_a_held_will_late) {
    struct scripted_broker *broker = up();
    scripted_broker_set(broker, (struct scripted_rule){.on = SCRIPTED_CONNECT, .hold_will = true});
    close(connected_with_will(broker));
    scripted_expect_ended(broker, "a");
    cr_assert(scripted_broker_count_retained(broker, "#") == 0);
    int again = connected_with_will(broker);
    scripted_broker_publish_will(broker, "a");
    scripted_expect_retained(broker, "will", "bye");
    cr_assert(scripted_broker_is_connected(broker, "a"));
    close(again);
    finish(broker);
}

// CONNECT with a session of 60 s and a Will after delay seconds: "will", "bye", retained.
static int connected_with_delay(struct scripted_broker *broker, unsigned delay) {
    char hex[256];
    int client = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
    snprintf(hex, sizeof hex,
             "10 24 0004 4D515454 05 24 003C 05 11 0000003C 0001 61 05 18 %08X 0004 77696C6C 0003 627965",
             delay);
    send_hex(client, hex);
    return client;
}

Test(scripted_broker, waits_as_long_as_a_will_asks) {
    struct scripted_broker *broker = up();
    int client = connected_with_delay(broker, 1);
    expect_hex(client, CONNACK_5);
    close(client);
    scripted_expect_ended(broker, "a");
    cr_assert(scripted_broker_count_retained(broker, "will") == 0);
    client = connected_with_delay(broker, 1); // in time
    expect_hex(client, "20 07 01 00 04 24 01 2A 00");
    scripted_broker_disconnect(broker, "a", 0);
    scripted_expect_ended(broker, "a");
    cr_assert(scripted_broker_count_retained(broker, "will") == 0);
    scripted_expect_retained(broker, "will", "bye"); // a second later
    finish(broker);
}

Test(scripted_broker, overlooks_the_delay_of_a_will) {
    struct scripted_broker *broker = up();
    scripted_broker_set(broker, (struct scripted_rule){.on = SCRIPTED_CONNECT, .no_will_delay = true});
    int client = connected_with_delay(broker, 3600);
    expect_hex(client, CONNACK_5);
    close(client);
    scripted_expect_retained(broker, "will", "bye");
    finish(broker);
}

// --- sessions ---

Test(scripted_broker, keeps_what_a_session_waits_for) {
    struct scripted_broker *broker = up();
    runs(broker, "sub -V 5 -c -i a -q 1 -t t -E");
    runs(broker, "pub -V 5 -q 1 -t t -m one");
    runs(broker, "pub -V 5 -q 0 -t t -m lost");
    runs(broker, "pub -V 5 -q 1 -t t -m two");
    expect_text(runs(broker, "sub -V 5 -c -i a -q 1 -t t -C 2"), "one\ntwo\n");
    runs(broker, "pub -V 5 -q 1 -t t -m three");
    runs(broker, "sub -V 5 -i a -q 1 -t other -E"); // a clean one
    runs(broker, "sub -V 5 -c -i a -q 1 -t t -E");
    runs(broker, "pub -V 5 -q 1 -t t -m four");
    expect_text(runs(broker, "sub -V 5 -c -i a -q 1 -t t -C 1"), "four\n");
    finish(broker);
}

static void expect_after_restart(unsigned memory, const char *retained, const char *queued) {
    struct scripted_broker *broker = up();
    runs(broker, "sub -V 5 -c -i a -q 1 -t t -E");
    runs(broker, "pub -V 5 -q 1 -r -t s -m old");
    runs(broker, "pub -V 5 -q 1 -t t -m old");
    scripted_broker_snapshot(broker);
    runs(broker, "pub -V 5 -q 1 -r -t s -m new");
    expect_text(runs(broker, "sub -V 5 -c -i a -q 1 -t t -C 1"), "old\n");
    runs(broker, "pub -V 5 -q 1 -t t -m new");
    scripted_broker_stop(broker);
    cr_assert(!scripted_broker_is_connected(broker, "a"));
    scripted_broker_restart(broker, memory);
    scripted_expect_retained(broker, "s", retained);
    runs(broker, "pub -V 5 -q 1 -t t -m last");
    if (queued == NULL)
        runs(broker, "pub -V 5 -q 1 -r -t t -m last");
    expect_text(runs(broker, "sub -V 5 -c -i a -q 1 -t t -C %d", queued != NULL ? 2 : 1),
                queued != NULL ? queued : "last\n");
    finish(broker);
}

Test(scripted_broker, comes_back_with_all_it_had) {
    expect_after_restart(SCRIPTED_RETAINED | SCRIPTED_SESSIONS, "new", "new\nlast\n");
}

Test(scripted_broker, comes_back_with_an_older_disk) {
    expect_after_restart(SCRIPTED_SNAPSHOT | SCRIPTED_RETAINED | SCRIPTED_SESSIONS, "old", "old\nlast\n");
}

Test(scripted_broker, comes_back_empty) {
    expect_after_restart(SCRIPTED_FORGETS, NULL, NULL);
}

Test(scripted_broker, comes_back_without_sessions) {
    expect_after_restart(SCRIPTED_RETAINED, "new", NULL);
}

Test(scripted_broker, falls_back_while_it_runs) {
    struct scripted_broker *broker = up();
    runs(broker, "pub -q 1 -r -t s/a -m old");
    scripted_broker_snapshot(broker);
    runs(broker, "pub -q 1 -r -t s/a -m new");
    runs(broker, "pub -q 1 -r -t s/b -m new");
    scripted_broker_restore_retained(broker);
    scripted_expect_retained(broker, "s/a", "old");
    scripted_expect_retained(broker, "s/b", NULL);
    scripted_broker_publish(broker, "x", "1", true);
    scripted_broker_forget_retained(broker, "s/#");
    cr_assert(scripted_broker_count_retained(broker, "#") == 1);
    finish(broker);
}

Test(scripted_broker, delivers_again_what_was_not_acknowledged) {
    struct scripted_broker *broker = up();
    int client = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
    send_hex(client, "10 13 0004 4D515454 05 00 003C 05 11 0000003C 0001 61");
    expect_hex(client, CONNACK_5);
    send_hex(client, SUBSCRIBE);
    expect_hex(client, SUBACK);
    scripted_broker_publish(broker, "t", "x", false);
    expect_hex(client, "32 07 0001 74 0001 00 78");
    close(client);
    scripted_expect_ended(broker, "a");
    client = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
    send_hex(client, "10 13 0004 4D515454 05 00 003C 05 11 0000003C 0001 61");
    expect_hex(client, "20 07 01 00 04 24 01 2A 00 3A 07 0001 74 0001 00 78");
    send_hex(client, "40 02 0001");
    expect_quiet(client);
    finish(broker);
}

Test(scripted_broker, delivers_again_what_was_acknowledged_when_told_so) {
    struct scripted_broker *broker = up();
    scripted_broker_set(broker, (struct scripted_rule){.on = SCRIPTED_PUBLISH, .topic = "t", .again = true});
    runs(broker, "sub -V 5 -c -i a -q 1 -t t -E");
    runs(broker, "pub -V 5 -q 1 -t t -m x");
    expect_text(runs(broker, "sub -V 5 -c -i a -q 1 -t t -C 1"), "x\n");
    expect_text(runs(broker, "sub -V 5 -c -i a -q 1 -t t -C 1"), "x\n");
    runs(broker, "pub -V 5 -q 1 -t t -m y");
    expect_text(runs(broker, "sub -V 5 -c -i a -q 1 -t t -C 1"), "y\n"); // x no more
    finish(broker);
}

Test(scripted_broker, gives_a_client_no_more_than_it_takes) {
    struct scripted_broker *broker = up();
    int client = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
    send_hex(client, "10 16 0004 4D515454 05 02 003C 08 21 0001 27 00000010 0001 61"); // one, of 16 bytes
    expect_hex(client, CONNACK_5);
    send_hex(client, SUBSCRIBE);
    expect_hex(client, SUBACK);
    scripted_broker_publish(broker, "t", "one", false);
    scripted_broker_publish(broker, "t", "much too large", false);
    scripted_broker_publish(broker, "t", "two", false);
    expect_hex(client, "32 09 0001 74 0001 00 6F6E65");
    expect_quiet(client);
    send_hex(client, "40 02 0001");
    expect_hex(client, "32 09 0001 74 0003 00 74776F");
    const struct scripted_connect *connect = scripted_broker_connect_at(broker, "a", 0);
    cr_assert(connect->receive_maximum == 1 && connect->maximum_packet_size == 16);
    finish(broker);
}

// --- taking over, keep alive ---

Test(scripted_broker, lets_a_second_client_take_over) {
    struct scripted_broker *broker = up();
    int first = connected_5(broker), second = connected_5(broker);
    expect_hex(first, "E0 02 8E 00");
    device_expect_closed(first);
    expect_quiet(second);
    expect_text(scripted_broker_connect_at(broker, "a", 0)->end, "taken over");
    scripted_broker_disconnect(broker, "a", 0x8E);
    expect_hex(second, "E0 02 8E 00");
    device_expect_closed(second);
    cr_assert(scripted_broker_connects(broker, "a") == 2 && scripted_broker_connects(broker, "b") == 0);
    finish(broker);
}

Test(scripted_broker, closes_on_who_is_silent_beyond_the_keep_alive) {
    struct scripted_broker *broker = up();
    scripted_broker_set(broker,
                        (struct scripted_rule){.on = SCRIPTED_CONNECT, .limits = {.server_keep_alive = 1}});
    int client = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
    send_hex(client, CONNECT_5);
    expect_hex(client, "20 0A 00 00 07 13 0001 24 01 2A 00 E0 02 8D 00");
    device_expect_closed(client);
    finish(broker);
}

Test(scripted_broker, is_deaf_when_frozen) {
    struct scripted_broker *broker = up();
    int client = connected_5(broker);
    scripted_broker_freeze(broker);
    send_hex(client, PUBLISH_1);
    int other = rig_tcp_at("127.0.0.1", scripted_broker_port(broker)); // the kernel takes it
    rig_wait_until(rig_clock() + 300);                                 // far longer than an answer takes
    cr_assert(!device_has_bytes(client) && scripted_broker_publishes(broker, "#", NULL) == 0);
    scripted_broker_thaw(broker);
    expect_hex(client, "40 02 0001");
    close(other);
    finish(broker);
}

// --- CONNACK ---

Test(scripted_broker, says_each_limit) {
    struct scripted_broker *broker = up();
    scripted_broker_set(broker, (struct scripted_rule){.on = SCRIPTED_CONNECT,
                                                       .text = "hi",
                                                       .server_reference = "b:1",
                                                       .limits = {.maximum_packet_size = 1000,
                                                                  .receive_maximum = 2,
                                                                  .server_keep_alive = 60,
                                                                  .topic_alias_maximum = 5,
                                                                  .session_expiry = -1,
                                                                  .only_qos_0 = true,
                                                                  .no_retain = true,
                                                                  .no_wildcards = true,
                                                                  .no_subscription_ids = true}});
    int client = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
    send_hex(client, CONNECT_5);
    expect_hex(client, "20 2B 00 00 28 27 000003E8 21 0002 13 003C 22 0005 11 00000000 24 00 25 00 28 00"
                       " 29 00 2A 00 1F 0002 6869 1C 0003 623A31");
    finish(broker);
}

static const struct {
    struct scripted_limits limits;
    const char *packet, *fault;
    uint8_t reason;
} beyond[] = {
    {{.maximum_packet_size = 8}, PUBLISH_1, "a packet of 9 bytes", 0x95},
    {{.receive_maximum = 1}, PUBLISH_1 PUBLISH_2, "more than 1 publishes under way", 0x93},
    {{.only_qos_0 = true}, PUBLISH_1, "QoS 1", 0x9B},
    {{.no_retain = true}, "31 05 0001 74 00 31", "retained PUBLISH", 0x9A},
    {{.no_wildcards = true}, "82 07 0001 00 0001 23 01", "wildcards", 0xA2},
    {{.no_subscription_ids = true}, "82 09 0001 02 0B07 0001 74 01", "identifier", 0xA1},
    {{.topic_alias_maximum = 2}, "30 08 0001 74 03 23 0003 31", "no valid topic", 0x90},
    {{0}, "82 10 0001 00 000A 2473686172652F612F62 01", "shared", 0x9E},
    {{0}, "34 07 0001 74 0001 00 31", "QoS 2", 0x9B},
    {{0}, PUBLISH_1 PUBLISH_1, "packet id 1 used twice", 0x82},
};

static void expect_beyond(size_t i) {
    struct scripted_broker *broker = up();
    scripted_broker_set(broker, (struct scripted_rule){.on = SCRIPTED_CONNECT, .limits = beyond[i].limits});
    scripted_broker_set(broker, (struct scripted_rule){.on = SCRIPTED_PUBLISH, .answer = SCRIPTED_SILENT});
    int client = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
    send_hex(client, CONNECT_5);
    send_hex(client, beyond[i].packet);
    scripted_expect_connects(broker, "a", 1);
    scripted_expect_ended(broker, "a");
    char *faults = scripted_broker_take_faults(broker);
    cr_assert(faults != NULL);
    expect_part(faults, beyond[i].fault);
    free(faults);
    uint8_t came[256], last[4] = {0xE0, 2, beyond[i].reason, 0};
    ssize_t length = recv(client, came, sizeof came, MSG_WAITALL);
    cr_assert(length > 4 && memcmp(came + length - 4, last, 4) == 0, "no DISCONNECT 0x%02X",
              beyond[i].reason);
    close(client);
    scripted_broker_finish(broker); // the fault was taken
    rig_clean();
}

Test(scripted_broker, holds_clients_to_its_limits) {
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++)
        expect_beyond(i);
}

Test(scripted_broker, knows_topic_aliases) {
    struct scripted_broker *broker = up();
    scripted_broker_set(broker,
                        (struct scripted_rule){.on = SCRIPTED_CONNECT, .limits = {.topic_alias_maximum = 2}});
    int client = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
    send_hex(client, CONNECT_5);
    expect_hex(client, "20 0A 00 00 07 22 0002 24 01 2A 00");
    send_hex(client, "30 08 0001 74 03 23 0002 31 30 07 0000 03 23 0002 32");
    scripted_expect_publishes(broker, "t", "2", 1);
    finish(broker);
}

static const struct {
    const char *packet, *fault;
} malformed[] = {
    {"C0 00", "before CONNECT"},
    {"10 FF FF FF FF 7F", "without a length"},
    {"10 0D 0004 4D515454 04 03 003C 0001 61", "malformed CONNECT"}, // reserved flag
    {"10 0D 0004 4D515454 04 42 003C 0001 61", "malformed CONNECT"}, // password alone
    {"10 0D 0004 4D515454 03 02 003C 0001 61", "version 3"},
    {"10 0C 0004 4D515454 04 00 003C 0000", "malformed CONNECT"},                     // no id, not clean
    {"10 0E 0004 4D515454 04 02 003C 0001 61 00", "malformed CONNECT"},               // a byte too many
    {"10 11 0004 4D515454 05 02 003C 03 21 0000 0001 61", "malformed CONNECT"},       // Receive Maximum 0
    {"10 14 0004 4D515454 05 02 003C 06 210001 210001 0001 61", "malformed CONNECT"}, // twice
    {CONNECT_5 CONNECT_5, "second CONNECT"},
    {CONNECT_5 "C1 00", "flags"},
    {CONNECT_5 "F0 00", "type 15"},
    {CONNECT_5 "30 04 0000 00 31", "no valid topic"},
    {CONNECT_5 "30 05 0001 2B 00 31", "no valid topic"},
    {CONNECT_5 "30 05 0009 74 00 31", "malformed PUBLISH"},            // topic beyond the packet
    {CONNECT_5 "30 05 0001 FF 00 31", "malformed PUBLISH"},            // not UTF-8
    {CONNECT_5 "30 07 0003 EDA080 00 31", "malformed PUBLISH"},        // a surrogate
    {CONNECT_5 "30 05 0001 00 00 31", "malformed PUBLISH"},            // NUL
    {CONNECT_5 "36 07 0001 74 0001 00 31", "malformed PUBLISH"},       // QoS 3
    {CONNECT_5 "32 07 0001 74 0000 00 31", "malformed PUBLISH"},       // packet id 0
    {CONNECT_5 "38 05 0001 74 00 31", "malformed PUBLISH"},            // DUP at QoS 0
    {CONNECT_5 "30 07 0001 74 02 0B01 31", "malformed PUBLISH"},       // not from clients
    {CONNECT_5 "30 09 0001 74 04 08 0001 23 31", "malformed PUBLISH"}, // response topic #
    {CONNECT_5 "80 07 0001 00 0001 74 01", "flags"},
    {CONNECT_5 "82 07 0001 00 0001 74 03", "malformed SUBSCRIBE"},
    {CONNECT_5 "82 07 0000 00 0001 74 01", "malformed SUBSCRIBE"},
    {CONNECT_5 "82 08 0001 00 0002 6123 01", "malformed SUBSCRIBE"}, // a#
    {CONNECT_5 "82 03 0001 00", "malformed SUBSCRIBE"},
    {CONNECT_5 "A2 03 0001 00", "malformed UNSUBSCRIBE"},
    {CONNECT_5 "40 01 00", "malformed PUBACK"},
    {CONNECT_5 "E0 03 00 01 00", "malformed DISCONNECT"},
    {CONNECT_4 "82 06 0001 0001 74 04", "malformed SUBSCRIBE"}, // options of version 5
};

Test(scripted_broker, notices_what_is_malformed) {
    struct scripted_broker *broker = up();
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        int client = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
        uint8_t rest[256];
        send_hex(client, malformed[i].packet);
        recv(client, rest, sizeof rest, MSG_WAITALL); // until it is closed
        close(client);
        char *faults = scripted_broker_take_faults(broker);
        cr_assert(faults != NULL, "%s was taken", malformed[i].packet);
        cr_assert(strstr(faults, malformed[i].fault) != NULL, "%s: %s", malformed[i].packet, faults);
        free(faults);
    }
    finish(broker);
}

// --- rules of CONNECT ---

static const struct {
    struct scripted_rule rule;
    const char *version, *says;
} refusals[] = {
    {{.reason = 0x84}, "5", "Unsupported Protocol Version"},
    {{.reason = 0x87}, "5", "Not authorized"},
    {{.reason = 0x97}, "5", "Quota exceeded"},
    {{.reason = 0x9D, .server_reference = "other:1883"}, "5", "Server moved"},
    {{.reason = 0x84}, "311", "unacceptable protocol version"},
    {{.reason = 0x87}, "311", "not authorised"},
    {{.reason = 0x97}, "311", "broker unavailable"},
};

Test(scripted_broker, refuses_a_connection) {
    struct scripted_broker *broker = up();
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        int rule = scripted_broker_set(broker, refusals[i].rule);
        expect_part(runs(broker, "pub -V %s -t t -m x", refusals[i].version), refusals[i].says);
        cr_assert(scripted_broker_hits(broker, rule) > 0);
        scripted_broker_unset(broker, rule);
    }
    cr_assert(scripted_broker_publishes(broker, "#", NULL) == 0);
    finish(broker);
}

Test(scripted_broker, speaks_only_the_old_version) {
    struct scripted_broker *broker = up();
    scripted_broker_set(broker,
                        (struct scripted_rule){.on = SCRIPTED_CONNECT, .version = 5, .answer = SCRIPTED_OLD});
    int client = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
    send_hex(client, CONNECT_5);
    expect_hex(client, "20 02 00 01");
    device_expect_closed(client);
    runs(broker, "pub -V 311 -q 1 -t t -m x");
    scripted_expect_publishes(broker, "t", "x", 1);
    finish(broker);
}

Test(scripted_broker, refuses_some_clients_some_times) {
    struct scripted_broker *broker = up();
    int rule = scripted_broker_set(
        broker, (struct scripted_rule){
                    .on = SCRIPTED_CONNECT, .client = "*-reader", .times = 1, .answer = SCRIPTED_CLOSES});
    runs(broker, "pub -V 5 -i x -q 1 -t t -m x");
    cr_assert(scripted_broker_hits(broker, rule) == 0);
    int client = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
    send_hex(client, "10 15 0004 4D515454 05 02 003C 00 0008 782D726561646572"); // x-reader
    device_expect_closed(client);
    expect_text(scripted_expect_connects(broker, "x-reader", 1)->end, "refused");
    cr_assert(scripted_broker_connect_at(broker, "x-reader", 0)->reason == -1);
    runs(broker, "pub -V 5 -i x-reader -q 1 -t t -m y");
    cr_assert(scripted_broker_hits(broker, rule) == 1);
    scripted_expect_publishes(broker, "t", NULL, 2);
    finish(broker);
}

Test(scripted_broker, answers_connect_late_or_never) {
    struct scripted_broker *broker = up();
    scripted_broker_set(
        broker, (struct scripted_rule){.on = SCRIPTED_CONNECT, .times = 1, .answer = SCRIPTED_SILENT});
    scripted_broker_set(broker, (struct scripted_rule){.on = SCRIPTED_CONNECT, .times = 1, .delay = 300});
    int deaf = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
    send_hex(deaf, CONNECT_5);
    const struct scripted_connect *first = scripted_expect_connects(broker, "a", 1);
    int late = rig_tcp_at("127.0.0.1", scripted_broker_port(broker));
    send_hex(late, CONNECT_5 PUBLISH_1); // which waits as well
    const struct scripted_connect *second = scripted_expect_connects(broker, "a", 2);
    cr_assert(second->reason == -1 && scripted_broker_publishes(broker, "t", NULL) == 0);
    expect_hex(late, CONNACK_5 "40 02 0001");
    cr_assert(scripted_broker_publish_at(broker, "t", NULL, 0)->time - second->time >= 300);
    cr_assert(!device_has_bytes(deaf) && first->reason == -1 && first->end == NULL);
    finish(broker);
}

// --- rules of PUBLISH ---

static int with_rule(struct scripted_broker *broker, struct scripted_rule rule) {
    rule.on = SCRIPTED_PUBLISH;
    return scripted_broker_set(broker, rule);
}

Test(scripted_broker, refuses_a_publish) {
    struct scripted_broker *broker = up();
    with_rule(broker, (struct scripted_rule){.topic = "no/#", .reason = 0x87, .text = "why"});
    expect_part(runs(broker, "pub -V 5 -q 1 -r -t no/1 -m x"), "Not authorized");
    int client = connected_5(broker);
    send_hex(client, "33 0A 0004 6E6F2F31 0001 00 31");
    expect_hex(client, "40 0A 0001 87 06 1F 0003 776879");
    send_hex(client, PUBLISH_1);
    expect_hex(client, "40 02 0001");
    cr_assert(scripted_broker_count_retained(broker, "#") == 0);
    finish(broker);
}

static const struct {
    struct scripted_rule rule;
    const char *after_first, *after_second;
    bool routed;
} endings[] = {
    {{.answer = SCRIPTED_CLOSES}, "40 02 0001", "", false},
    {{.answer = SCRIPTED_CLOSES, .taken = true}, "40 02 0001", "", true},
    {{.answer = SCRIPTED_CLOSES_AFTER}, "40 02 0001", "40 02 0002", true},
    {{.answer = SCRIPTED_CLOSES_AFTER, .reason = 0x97, .disconnect = 0x97},
     "40 02 0001",
     "40 04 0002 97 00 E0 02 97 00",
     false},
    {{.disconnect = 0x96}, "40 02 0001", "E0 02 96 00", false},
    {{.disconnect = 0x9C, .server_reference = "b"}, "40 02 0001", "E0 06 9C 04 1C 0001 62", false},
};

Test(scripted_broker, closes_at_the_chosen_publish) {
    struct scripted_broker *broker = up();
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        struct scripted_rule rule = endings[i].rule;
        rule.from = 2;
        rule.times = 1;
        int number = with_rule(broker, rule);
        int client = connected_5(broker);
        // Together: what comes before is answered all the same.
        send_hex(client, PUBLISH_1 "33 07 0001 74 0002 00 32" PUBLISH_3);
        expect_hex(client, endings[i].after_first);
        expect_hex(client, endings[i].after_second);
        device_expect_closed(client);
        close(client);
        cr_assert(scripted_broker_count_retained(broker, "t") == endings[i].routed, "%zu", i);
        scripted_broker_forget_retained(broker, "#");
        scripted_broker_unset(broker, number);
    }
    cr_assert(scripted_broker_publishes(broker, "t", "3") == 0);
    finish(broker);
}

Test(scripted_broker, chooses_by_size_text_and_retain_flag) {
    struct scripted_broker *broker = up();
    with_rule(broker, (struct scripted_rule){.larger_than = 3, .reason = 0x95});
    with_rule(broker, (struct scripted_rule){.containing = "ab", .reason = 0x97});
    with_rule(broker, (struct scripted_rule){.retained = true, .reason = 0x87});
    expect_part(runs(broker, "pub -V 5 -q 1 -t t -m 1234"), "Packet too large");
    expect_part(runs(broker, "pub -V 5 -q 1 -t t -m 1ab"), "Quota exceeded");
    expect_part(runs(broker, "pub -V 5 -q 1 -r -t t -m 1a"), "Not authorized");
    expect_text(runs(broker, "pub -V 5 -q 1 -t t -m 1a"), "");
    finish(broker);
}

Test(scripted_broker, answers_late_in_another_order_or_never) {
    struct scripted_broker *broker = up();
    with_rule(broker, (struct scripted_rule){.topic = "t", .times = 3, .reverse = 3});
    with_rule(broker, (struct scripted_rule){.topic = "t", .times = 1, .delay = 300});
    with_rule(broker, (struct scripted_rule){.topic = "t", .times = 1, .reverse = 2});
    with_rule(broker, (struct scripted_rule){.topic = "t", .answer = SCRIPTED_SILENT});
    int client = connected_5(broker);
    send_hex(client, PUBLISH_1 PUBLISH_2 PUBLISH_3);
    expect_hex(client, "40 02 0003 40 02 0002 40 02 0001");
    send_hex(client, PUBLISH_1);
    expect_quiet(client); // this answer comes first
    expect_hex(client, "40 02 0001");
    send_hex(client, PUBLISH_2);
    expect_hex(client, "40 02 0002"); // alone, after a while
    send_hex(client, PUBLISH_3);
    expect_quiet(client);
    cr_assert(scripted_broker_publishes(broker, "t", NULL) == 6);
    finish(broker);
}

Test(scripted_broker, drops_and_strips) {
    struct scripted_broker *broker = up();
    with_rule(broker, (struct scripted_rule){.topic = "drop", .drop = true});
    with_rule(broker, (struct scripted_rule){.topic = "strip", .strip = true});
    FILE *sub = begins(broker, "sub -V 5 -t strip -C 1 -F '%%p %%R %%P'");
    scripted_expect_subscribes(broker, NULL, "strip", 1);
    expect_text(runs(broker, "pub -V 5 -q 1 -r -t drop -m x"), "");
    runs(broker, "pub -V 5 -q 1 -r -t strip -m x -D publish response-topic r -D publish user-property k v");
    expect_text(said(sub), "x r k:v\n"); // what is not retained has them
    expect_text(runs(broker, "sub -V 5 -t strip -C 1 -F '%%p %%R %%P'"), "x r \n");
    cr_assert(scripted_broker_count_retained(broker, "#") == 1);
    finish(broker);
}

Test(scripted_broker, swaps_retained_writes_under_way_at_once) {
    struct scripted_broker *broker = up();
    int rule = with_rule(broker, (struct scripted_rule){.swap = true});
    int client = connected_5(broker);
    send_hex(client, "33 07 0001 74 0001 00 31 33 07 0001 75 0002 00 32 33 07 0001 74 0003 00 33");
    expect_hex(client, "40 02 0003 40 02 0001 40 02 0002");
    scripted_expect_retained(broker, "t", "1");
    scripted_expect_retained(broker, "u", "2");
    cr_assert(scripted_broker_hits(broker, rule) == 1);
    send_hex(client, "33 07 0001 74 0001 00 34"); // one after the other
    expect_hex(client, "40 02 0001");
    send_hex(client, "33 07 0001 74 0001 00 35");
    expect_hex(client, "40 02 0001");
    scripted_expect_retained(broker, "t", "5");
    cr_assert(scripted_broker_hits(broker, rule) == 1);
    finish(broker);
}

Test(scripted_broker, limits_the_rate) {
    struct scripted_broker *broker = up();
    int rule = with_rule(broker, (struct scripted_rule){.rate = 2, .disconnect = 0x96});
    int client = connected_5(broker);
    send_hex(client, PUBLISH_1 PUBLISH_2);
    expect_hex(client, "40 02 0001 40 02 0002");
    send_hex(client, PUBLISH_3);
    expect_hex(client, "E0 02 96 00");
    device_expect_closed(client);
    cr_assert(scripted_broker_hits(broker, rule) == 1);
    finish(broker);
}

// --- rules of SUBSCRIBE ---

static int with_subscribe_rule(struct scripted_broker *broker, struct scripted_rule rule) {
    rule.on = SCRIPTED_SUBSCRIBE;
    return scripted_broker_set(broker, rule);
}

Test(scripted_broker, refuses_a_subscription_so_many_times) {
    struct scripted_broker *broker = up();
    with_subscribe_rule(broker, (struct scripted_rule){.topic = "t", .times = 2, .reason = 0x97});
    int client = connected_5(broker);
    send_hex(client, SUBSCRIBE SUBSCRIBE SUBSCRIBE);
    expect_hex(client, "90 04 0009 00 97 90 04 0009 00 97" SUBACK);
    cr_assert(scripted_broker_subscribe_at(broker, "a", "t", 1)->reason == 0x97);
    cr_assert(scripted_broker_subscribe_at(broker, "a", "t", 2)->reason == 1);
    with_subscribe_rule(broker, (struct scripted_rule){.topic = "u", .reason = 0x91});
    expect_part(runs(broker, "sub -V 311 -t u"), "denied"); // 0x80
    finish(broker);
}

Test(scripted_broker, delivers_nothing_without_the_right_to_read) {
    struct scripted_broker *broker = up();
    scripted_broker_publish(broker, "t", "x", true);
    with_subscribe_rule(broker, (struct scripted_rule){.topic = "t", .times = 1, .nothing = true});
    with_subscribe_rule(broker, (struct scripted_rule){.topic = "t", .not_own = true});
    int client = connected_5(broker);
    send_hex(client, SUBSCRIBE);
    expect_hex(client, SUBACK);
    scripted_broker_publish(broker, "t", "y", false);
    expect_quiet(client);
    send_hex(client, SUBSCRIBE);
    expect_hex(client, SUBACK "33 07 0001 74 0001 00 78");
    send_hex(client, PUBLISH_1);
    expect_hex(client, "40 02 0001");
    scripted_broker_publish(broker, "t", "z", false);
    expect_hex(client, "32 07 0001 74 0002 00 7A");
    finish(broker);
}

Test(scripted_broker, tells_late_and_reversed_what_it_retains) {
    struct scripted_broker *broker = up();
    scripted_broker_publish(broker, "s/1", "one", true);
    scripted_broker_publish(broker, "s/2", "two", true);
    int late = with_subscribe_rule(
        broker, (struct scripted_rule){.topic = "s/#", .retained_delay = 300, .retained_reversed = true});
    int client = connected_5(broker);
    send_hex(client, "82 09 0009 00 0003 732F23 00");
    expect_hex(client, "90 04 0009 00 00");
    expect_quiet(client);
    expect_hex(client, "31 09 0003 732F32 00 74776F 31 09 0003 732F31 00 6F6E65");
    scripted_broker_unset(broker, late);
    expect_text(runs(broker, "sub -t 's/#' -C 2"), "one\ntwo\n");
    finish(broker);
}

Test(scripted_broker, answers_subscribe_late_never_or_by_closing) {
    struct scripted_broker *broker = up();
    with_subscribe_rule(broker, (struct scripted_rule){.times = 1, .delay = 300});
    with_subscribe_rule(broker, (struct scripted_rule){.times = 1, .answer = SCRIPTED_SILENT});
    with_subscribe_rule(broker, (struct scripted_rule){.times = 1, .disconnect = 0x87});
    int client = connected_5(broker);
    send_hex(client, SUBSCRIBE);
    expect_quiet(client);
    expect_hex(client, SUBACK);
    send_hex(client, SUBSCRIBE);
    expect_quiet(client);
    send_hex(client, SUBSCRIBE);
    expect_hex(client, "E0 02 87 00");
    device_expect_closed(client);
    finish(broker);
}

// --- what a test can rely on ---

Test(scripted_broker, forgets_what_came) {
    struct scripted_broker *broker = up();
    int client = connected_5(broker);
    send_hex(client, PUBLISH_1 SUBSCRIBE);
    expect_hex(client, "40 02 0001" SUBACK);
    runs(broker, "pub -i b -q 1 -t t -m x");
    scripted_expect_ended(broker, "b");
    scripted_broker_forget_past(broker);
    cr_assert(scripted_broker_publishes(broker, NULL, NULL) == 0);
    cr_assert(scripted_broker_subscribes(broker, NULL, NULL) == 0);
    cr_assert(scripted_broker_connects(broker, NULL) == 1); // the one that lasts
    send_hex(client, PUBLISH_2);
    scripted_expect_publishes(broker, "t", "2", 1);
    finish(broker);
}

// --- the gateway ---

// The rig's client hears all of it, as with a real broker.
static void start_client(struct scripted_broker *broker, struct rig *rig) {
    rig_client_start(rig);
    scripted_expect_subscribes(broker, "rig", "#", 1);
}

static void start_gateway(struct scripted_broker *broker, struct rig *rig) {
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, ": connected");
    rig_expect_state(rig);
}

Test(scripted_broker, serves_the_gateway) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    start_client(broker, rig);
    start_gateway(broker, rig);
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':1}");
    rig_expect_standing(rig, "state/gw/devices/" VAN "/connected", "true");
    rig_publish(rig, "command/gw/devices/" VAN, "mode,6,60#");
    device_expect(device, "mode,6,60#");
    device_send(device, "mode=Success!");
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/custom/processed", "{'executed':true}");
    const struct scripted_connect *connect = scripted_broker_connect_at(broker, "trackbus", 0);
    cr_assert(connect->version == 5 && !connect->clean_start && connect->session_expiry > 0);
    expect_text(connect->will_topic, "trackbus/state/gw/instances/trackbus");
    cr_assert(scripted_broker_connects(broker, "trackbus-reader") > 0);
    scripted_broker_finish(broker);
}

// One connection ends before a PUBACK, and the gateway sends again what was under way.
Test(scripted_broker, loses_no_report_when_it_closes_once) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    int rule = with_rule(
        broker, (struct scripted_rule){
                    .topic = "trackbus/message/gw/devices/+", .from = 3, .times = 1, .disconnect = 0x97});
    start_client(broker, rig);
    start_gateway(broker, rig);
    int device = rig_tcp(rig);
    for (int i = 0; i < 10; i++)
        device_send(device, report(VAN, i));
    for (int i = 0; i < 10; i++) {
        char subset[48];
        snprintf(subset, sizeof subset, "{'message.seqnum':%d}", i);
        rig_expect(rig, "message/gw/devices/" VAN, subset);
    }
    cr_assert(scripted_broker_hits(broker, rule) == 1);
    scripted_expect_connects(broker, "trackbus", 2);
    scripted_broker_finish(broker);
}

Test(scripted_broker, gets_the_state_again_when_it_comes_back_empty) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    start_client(broker, rig);
    start_gateway(broker, rig);
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    scripted_expect_retained(broker, "trackbus/state/gw/devices/" VAN "/connected", "true");
    scripted_broker_stop(broker);
    rig_expect_log(rig, "retrying in");
    device_send(device, report(VAN, 2));
    scripted_broker_restart(broker, SCRIPTED_SESSIONS);
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':2}");
    scripted_expect_retained(broker, "trackbus/state/gw/devices/" VAN "/connected", "true");
    scripted_broker_finish(broker);
}

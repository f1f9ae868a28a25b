// A broker that does not take a message: it costs that message, and nothing else. Real Mosquittos, which answer a
// publish that they refuse, or close the connection at it, depending on how they are configured.
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/bytes.h"
#include "tests/e2e/rig.h"
#include "tests/e2e/scripted_broker.h"

TestSuite(refusals, .fini = rig_clean, .timeout = 300);

// Accepted as they are by the parameterized tests below.
static const char *const queues[] = {"max_queued_messages 0\n", "max_queued_messages 1000\n",
                                     "max_queued_messages 100000\n"};
#define OTHER_LORRY "864867022511016"
#define QUEUES      (sizeof queues / sizeof queues[0])

// A report with so many access points that its message has some 2,000 bytes.
static const char *long_report_of(const char *ident, int minute) {
    static char text[2048];
    char points[1500] = "";
    for (int i = 0; i < 40; i++)
        sprintf(points + strlen(points), "%s6a:db:54:5a:79:%02x,-%d", i > 0 ? "," : "", i, 50 + i);
    snprintf(text, sizeof text, "MT;7;%s;R1;26112512%02d00+%s+3+3831+2\r\n", ident, minute, points);
    return text;
}

static const char *long_report(const char *ident) {
    return long_report_of(ident, 1);
}

static void expect_last_reports(struct rig *rig, int last) {
    char subset[48];
    snprintf(subset, sizeof subset, "{'message.seqnum':%d}", last);
    rig_expect_message(rig, "message/gw/devices/" VAN, subset, 60000);
    rig_expect_message(rig, "message/gw/devices/" CAR, subset, 60000);
}

// One long list beyond message_size_limit, in the middle of the reports of two devices.
static void expect_to_cost_one_message(struct rig *rig) {
    int van = rig_tcp(rig), car = rig_tcp(rig);
    device_send(van, report(VAN, 0));
    device_send(car, report(CAR, 0));
    expect_last_reports(rig, 0);
    device_send(van, long_report(VAN));
    for (int i = 1; i < 8; i++) {
        device_send(van, report(VAN, i));
        device_send(car, report(CAR, i));
    }
    expect_last_reports(rig, 7);
    rig_expect_counters(rig, "outbox: 0 messages");
}

ParameterizedTestParameters(refusals, message_that_is_too_large_costs_itself) {
    static size_t rows[QUEUES] = {0, 1, 2};
    return cr_make_param_array(size_t, rows, QUEUES);
}

ParameterizedTest(size_t *row, refusals, message_that_is_too_large_costs_itself) {
    char lines[128];
    snprintf(lines, sizeof lines, "%smessage_size_limit 700\n", queues[*row]);
    struct rig *rig = rig_with_broker(lines);
    rig_gateway_start(rig, "{'telemetry':'off'}");
    expect_to_cost_one_message(rig);
    // Both topics have it, and neither takes it.
    rig_expect_message(rig, INSTANCE, "{'state':'online','set_aside':2}", 60000);
    rig_finish(rig);
}

// The trees of topics that the gateway writes to, each forbidden in turn; what is left that must come through.
static const struct {
    const char *tree;
    bool reports; // on the device's topic
} forbidden[] = {
    {"trackbus/log/#", true},
    {"trackbus/state/gw/instances/#", true},
    {"trackbus/state/gw/channels/#", true},
    {"trackbus/state/gw/devices/#", true},
    {"trackbus/message/gw/channels/#", true},
    {"trackbus/message/gw/devices/#", false},
};
#define FORBIDDEN (sizeof forbidden / sizeof forbidden[0])

// A broker with a user for the gateway that may write everything but one tree.
static struct rig *forbidding_up(const char *queue, const char *tree) {
    struct rig *rig = rig_new();
    char lines[600], acl[160], gateway[200], rules[400];
    snprintf(acl, sizeof acl, "%s/acl", rig->directory);
    snprintf(rules, sizeof rules,
             "topic readwrite #\nuser rig\ntopic readwrite #\nuser gateway\n"
             "topic readwrite #\ntopic deny %s\n",
             tree);
    rig_write_file(rig, "acl", rules);
    snprintf(lines, sizeof lines, "%sacl_file %s\n", queue, acl);
    rig_broker_start(rig, lines);
    rig_client_start(rig);
    snprintf(gateway, sizeof gateway, "{'telemetry':'off','mqtt':{'username':'gateway','password':'x'}}");
    rig_gateway_start(rig, gateway);
    return rig;
}

ParameterizedTestParameters(refusals, tree_that_is_forbidden_costs_no_other) {
    return cr_make_param_array(size_t, rig_rows(2 * FORBIDDEN), 2 * FORBIDDEN);
}

ParameterizedTest(size_t *row, refusals, tree_that_is_forbidden_costs_no_other) {
    const size_t tree = *row / 2;
    struct rig *rig = forbidding_up(queues[*row % 2], forbidden[tree].tree);
    int van = rig_tcp(rig);
    const char *topic = forbidden[tree].reports ? "message/gw/devices/" VAN : "message/gw/channels/1/" VAN;
    for (int i = 0; i < 30; i++)
        device_send(van, report(VAN, i));
    for (int i = 0; i < 30; i++) {
        char subset[48];
        snprintf(subset, sizeof subset, "{'message.seqnum':%d}", i);
        rig_expect_message(rig, topic, subset, 60000);
    }
    rig_finish(rig);
}

#define RESULTS 60

// A command that comes again has its result again.
static bool all_are_set_aside(void *rig) {
    json_t *state = rig_expect_standing_json(rig, INSTANCE, "{'state':'online'}");
    json_int_t count = json_integer_value(json_object_get(state, "set_aside"));
    json_decref(state);
    return count >= RESULTS;
}

// Whoever may send commands may choose a response topic that the gateway may not write to: 60 of them stop nothing.
Test(refusals, results_to_forbidden_topics_stop_no_report) {
    struct rig *rig = forbidding_up(queues[0], "answers/#");
    int van = rig_tcp(rig);
    device_send(van, report(VAN, 0));
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':0}");
    for (int i = 0; i < RESULTS; i++)
        rig_request(rig, "command/gw/devices/" VAN, "{\"name\":\"nonsense\"}", "answers/of/mine", NULL);
    rig_expect_log(rig, "message to answers/of/mine (");
    for (int i = 1; i < 20; i++)
        device_send(van, report(VAN, i));
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':19}");
    // This broker ends the connection at each that it sees.
    cr_assert(rig_wait(all_are_set_aside, rig, RIG_DEADLINE), "not all results are set aside");
    size_t connections = rig_log_count(rig, ": connected");
    cr_assert(connections > 1 && connections < 10, "the results have cost %zu connections", connections);
    rig_finish(rig);
}

// --- what was set aside ---

static void expect_store(struct rig *rig, const char *arguments, const char *expected) {
    char command[400], line[600];
    snprintf(command, sizeof command, "TRACKBUS_STORE=%s/store.db %s store %s 2>&1", rig->directory,
             TRACKBUS_BINARY, arguments);
    FILE *output = popen(command, "r");
    cr_assert(output != NULL && fgets(line, sizeof line, output) != NULL);
    cr_expect(strstr(line, expected) != NULL, "'%s' prints '%s', expected '%s'", arguments, line, expected);
    pclose(output);
}

// A device is not told that a report arrived that the broker never takes, also when it repeats it; and goes on in its
// next connection.
Test(refusals, magicyo_does_not_hear_that_a_report_arrived_that_is_set_aside) {
    struct rig *rig = rig_with_broker("max_queued_messages 1000\nmessage_size_limit 700\n");
    rig_gateway_start(rig, "{'telemetry':'off','messages':['devices'],'channels':[{'id':2,'name':'magicyo',"
                           "'protocol':'magicyo','tcp':'127.0.0.1:0'}]}");
    static const uint8_t heartbeat[] = {0};
    uint8_t attributes[2 + 2 * (3 + 250)] = {0x04, 0x04, 0x03, 0xE7, 250}, bytes[MAGICYO_FRAME_MAX];
    memcpy(attributes + 255, (const uint8_t[]){0x03, 0xE8, 250}, 3);
    int lorry = rig_tcp_to(rig, "magicyo");
    device_send_bytes(lorry, bytes, bytes_magicyo(bytes, LORRY, 0x03, 7, attributes, sizeof attributes));
    rig_expect_message(rig, INSTANCE, "{'set_aside':1}", 60000);
    device_send_bytes(lorry, bytes, bytes_magicyo(bytes, LORRY, 0x03, 7, attributes, sizeof attributes));
    device_expect_closed(lorry); // without an answer
    lorry = rig_tcp_to(rig, "magicyo");
    device_send_bytes(lorry, bytes, bytes_magicyo(bytes, LORRY, 0x0C, 8, heartbeat, 0));
    device_expect_bytes(lorry, bytes, bytes_magicyo(bytes, LORRY, 0x0D, 8, heartbeat, 0));
    rig_expect_message(rig, "message/gw/devices/" LORRY, "{'message.seqnum':8}", 60000);
    device_send_bytes(lorry, bytes, bytes_magicyo(bytes, LORRY, 0x03, 9, attributes, sizeof attributes));
    rig_expect_message(rig, INSTANCE, "{'set_aside':2}", 60000);
    close(lorry); // it is the device that ends the connection
    rig_expect(rig, "log/gw/channels/2/connections/+/closed", "{'close_code':2}");
    rig_finish(rig);
}

// All of them are refused before anybody waits for them.
Test(refusals, magicyo_hears_of_none_of_many_reports_that_are_too_large) {
    struct rig *rig = rig_with_broker("max_packet_size 450\n");
    rig_gateway_start(rig, "{'telemetry':'off','messages':['devices'],'channels':[{'id':2,'name':'magicyo',"
                           "'protocol':'magicyo','tcp':'127.0.0.1:0'}]}");
    static uint8_t bytes[200 * MAGICYO_FRAME_MAX];
    size_t length = 0, size;
    uint8_t *position = bytes_unhex("04 00 01 5f5e1000 1a 00f6adfeaa 228b13 02db0f 00f00900c0 000005", &size);
    for (unsigned id = 1; id <= 200; id++)
        length += bytes_magicyo(bytes + length, LORRY, 0x03, id, position, size);
    int lorry = rig_tcp_to(rig, "magicyo");
    device_send_bytes(lorry, bytes, length);
    rig_expect(rig, INSTANCE, "{'set_aside':200}");
    device_send_bytes(lorry, bytes, bytes_magicyo(bytes, LORRY, 0x03, 201, position, size));
    device_expect_closed(lorry); // without an answer
    free(position);
    rig_finish(rig);
}

// Of a relay over UDP only the device whose report is refused begins anew: what another repeats stays a repeat.
Test(refusals, refused_report_of_a_relay_costs_no_other_device_its_memory) {
    struct rig *rig = rig_with_broker("max_queued_messages 1000\nmessage_size_limit 700\n");
    rig_gateway_start(rig, "{'telemetry':'off','messages':['devices'],'channels':[{'id':2,'name':'magicyo',"
                           "'protocol':'magicyo','udp':'127.0.0.1:0'}]}");
    static const uint8_t short_data[] = {0x01, 0x03};
    uint8_t attributes[2 + 2 * (3 + 250)] = {0x04, 0x04, 0x03, 0xE7, 250}, bytes[MAGICYO_FRAME_MAX];
    memcpy(attributes + 255, (const uint8_t[]){0x03, 0xE8, 250}, 3);
    int relay = rig_udp_to(rig, "magicyo");
    device_send_bytes(relay, bytes, bytes_magicyo(bytes, OTHER_LORRY, 0x03, 6, short_data, 2));
    device_expect_bytes(relay, bytes, bytes_magicyo(bytes, OTHER_LORRY, 0x04, 6, short_data, 2));
    device_send_bytes(relay, bytes, bytes_magicyo(bytes, LORRY, 0x03, 7, attributes, sizeof attributes));
    rig_expect_message(rig, INSTANCE, "{'set_aside':1}", 60000);
    device_send_bytes(relay, bytes, bytes_magicyo(bytes, LORRY, 0x03, 7, attributes, sizeof attributes));
    rig_expect_log(rig, "is already set aside, and its repeat is not"); // the repeat is as new
    for (unsigned id = 8; id >= 6; id -= 2) {                           // the second is a repeat
        device_send_bytes(relay, bytes, bytes_magicyo(bytes, OTHER_LORRY, 0x03, id, short_data, 2));
        device_expect_bytes(relay, bytes, bytes_magicyo(bytes, OTHER_LORRY, 0x04, id, short_data, 2));
    }
    device_send_bytes(relay, bytes, bytes_magicyo(bytes, OTHER_LORRY, 0x03, 10, short_data, 2));
    rig_expect_message(rig, "message/gw/devices/" OTHER_LORRY, "{'message.seqnum':10}", 60000);
    cr_assert(rig_count(rig, "message/gw/devices/" OTHER_LORRY) == 3, "a repeat was published");
    rig_finish(rig);
}

// What was set aside goes out again once the broker takes it.
Test(refusals, what_was_set_aside_is_listed_resent_and_dropped) {
    struct rig *rig = rig_with_broker("max_queued_messages 1000\nmessage_size_limit 700\n");
    rig_gateway_start(rig, "{'telemetry':'off','messages':['devices']}");
    int van = rig_tcp(rig);
    device_send(van, long_report(VAN));
    device_send(van, long_report_of(VAN, 2));
    device_send(van, report(VAN, 1));
    rig_expect_message(rig, "message/gw/devices/" VAN, "{'message.seqnum':1}", 60000);
    rig_expect_message(rig, INSTANCE, "{'set_aside':2}", 60000);
    expect_store(rig, "list", "a running gateway has it open: stop that one first");
    rig_gateway_stop(rig);
    expect_store(rig, "list", "trackbus/message/gw/devices/" VAN);
    expect_store(rig, "list 1", "{\"battery.voltage\"");
    expect_store(rig, "drop 7", "there is no message 7");
    expect_store(rig, "drop", "which message? Its NUMBER, or all");
    expect_store(rig, "resend", "which message? Its NUMBER, or all");
    expect_store(rig, "drop 1", "1 message dropped");
    expect_store(rig, "drop 1", "there is no message 1");
    expect_store(rig, "resend all", "1 message will be sent again");
    expect_store(rig, "list", "no messages are set aside");
    rig_broker_kill(rig);
    rig_broker_start(rig, NULL);
    rig_gateway_start(rig, "{'telemetry':'off','messages':['devices']}");
    rig_expect_message(rig, "message/gw/devices/" VAN, "{'message.type':'R1'}", 60000);
    rig_finish(rig);
}

// --- a network that cuts connections: the broker refuses nothing ---

// What the gateway publishes to that topic is answered so many milliseconds later.
static struct rig *late_up(struct scripted_broker **broker, const char *topic, unsigned latency) {
    struct rig *rig = rig_new();
    *broker = scripted_broker_start(rig);
    scripted_broker_set(*broker,
                        (struct scripted_rule){.on = SCRIPTED_PUBLISH, .topic = topic, .delay = latency});
    rig_client_start(rig);
    return rig;
}

// Cuts each connection of the gateway within most milliseconds.
static void cut_for(struct scripted_broker *broker, int64_t milliseconds, int least, int most) {
    int64_t end = rig_clock() + milliseconds;
    while (rig_clock() < end) {
        scripted_expect_connected(broker, "trackbus");
        rig_wait_until(rig_clock() + least + rand() % (most - least + 1));
        scripted_broker_disconnect(broker, "trackbus", 0);
    }
}

static const struct {
    unsigned latency;
    int least, most; // milliseconds that a connection lives
} cuts[] = {{850, 100, 900}, {100, 0, 90}};
#define CUTS (sizeof cuts / sizeof cuts[0])

ParameterizedTestParameters(refusals, network_that_cuts_costs_no_message) {
    static size_t rows[CUTS] = {0, 1};
    return cr_make_param_array(size_t, rows, CUTS);
}

ParameterizedTest(size_t *row, refusals, network_that_cuts_costs_no_message) {
    struct scripted_broker *broker;
    struct rig *rig = late_up(&broker, "trackbus/message/#", cuts[*row].latency);
    rig_gateway_start(rig, "{'telemetry':'off','messages':['devices']}");
    int van = rig_tcp(rig);
    for (int i = 0; i < 30; i++)
        device_send(van, report(VAN, i));
    cut_for(broker, 20000, cuts[*row].least, cuts[*row].most);
    for (int i = 0; i < 30; i++) {
        char subset[48];
        snprintf(subset, sizeof subset, "{'message.seqnum':%d}", i);
        rig_expect_message(rig, "message/gw/devices/" VAN, subset, 90000);
    }
    rig_expect_counters_within(rig, "outbox: 0 messages", 60000); // one after the other, at first
    json_decref(rig_expect_standing_json(rig, INSTANCE, "{'state':'online','set_aside':0}"));
    cr_assert(!rig_log_has(rig, "set aside"));
    scripted_broker_finish(broker);
}

static bool is_online(void *context) {
    char *state = scripted_broker_retained(context, "trackbus/" INSTANCE);
    bool online = state != NULL && strstr(state, "\"online\"") != NULL;
    free(state);
    return online;
}

// The Last Will says offline at each cut.
Test(refusals, instance_is_online_soon_after_the_network_is_well_again) {
    struct scripted_broker *broker;
    struct rig *rig = late_up(&broker, "trackbus/" INSTANCE, 300);
    rig_gateway_start(rig, "{'telemetry':'off'}");
    cut_for(broker, 5000, 50, 250); // before the state is answered
    scripted_expect_connected(broker, "trackbus");
    cr_assert(rig_wait(is_online, broker, 9000), "it stays offline");
    scripted_broker_finish(broker);
}

// --- a broker that closes the connection at one message, as VerneMQ ---

// Twice with others under way, then three times alone; once more where the gateway's own state was under way too.
Test(refusals, report_that_the_broker_closes_at_is_set_aside_the_third_time_that_it_is_alone) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    int rule = scripted_broker_set(broker, (struct scripted_rule){.on = SCRIPTED_PUBLISH,
                                                                  .topic = "trackbus/message/#",
                                                                  .larger_than = 900,
                                                                  .answer = SCRIPTED_CLOSES});
    rig_client_start(rig);
    rig_gateway_start(rig, "{'telemetry':'off','messages':['devices']}");
    int van = rig_tcp(rig);
    device_send(van, report(VAN, 0));
    device_send(van, long_report(VAN));
    device_send(van, report(VAN, 1));
    rig_expect_message(rig, "message/gw/devices/" VAN, "{'message.seqnum':1}", 60000);
    rig_expect_message(rig, INSTANCE, "{'set_aside':1}", 60000);
    unsigned hits = scripted_broker_hits(broker, rule);
    // More only where the machine stands still: a close that comes late may have been the network.
    cr_expect(hits >= 5 && hits <= 9, "it closed %u times", hits);
    scripted_broker_finish(broker);
}

// --- a broker that never answers one message, as RabbitMQ one that is too large ---

Test(refusals, report_that_is_never_answered_costs_itself) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    int rule = scripted_broker_set(broker, (struct scripted_rule){.on = SCRIPTED_PUBLISH,
                                                                  .topic = "trackbus/message/#",
                                                                  .larger_than = 900,
                                                                  .answer = SCRIPTED_SILENT});
    rig_client_start(rig);
    rig_gateway_start(rig, "{'telemetry':'off','messages':['devices'],'mqtt':{'inflight':10}}");
    int van = rig_tcp(rig);
    device_send(van, long_report(VAN));
    for (int i = 0; scripted_broker_hits(broker, rule) < 3; i++) {
        char subset[48];
        device_send(van, report(VAN, i));
        snprintf(subset, sizeof subset, "{'message.seqnum':%d}", i);
        rig_expect(rig, "message/gw/devices/" VAN, subset);
    }
    rig_expect_message(rig, INSTANCE, "{'set_aside':1}", 60000);
    scripted_broker_finish(broker);
}

// --- retained messages ---

static void expect_one_at_a_time(struct scripted_broker *broker, const char *topic, int64_t latency,
                                 size_t least) {
    const struct scripted_publish *last = NULL, *next;
    size_t count = 0;
    while ((next = scripted_broker_publish_at(broker, topic, NULL, count)) != NULL) {
        if (last != NULL && last->connection == next->connection)
            cr_expect(next->time - last->time >= latency, "%s: the next came after %lld ms", topic,
                      (long long)(next->time - last->time));
        last = next;
        count++;
    }
    cr_assert(count >= least, "%zu to %s", count, topic);
}

// Some brokers do not keep the order of retained messages: no two to one topic are under way at once.
Test(refusals, retained_messages_to_one_topic_go_one_at_a_time) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    int device;
    scripted_broker_set(broker,
                        (struct scripted_rule){.on = SCRIPTED_PUBLISH, .client = "trackbus", .delay = 400});
    rig_client_start(rig);
    rig_gateway_start(rig, "{'telemetry':'off'}");
    for (int i = 0; i < 3; i++) {
        device = rig_tcp(rig);
        device_send(device, report(VAN, i));
        rig_expect(rig, "message/gw/devices/" VAN, NULL);
        close(device);
    }
    scripted_expect_retained(broker, "trackbus/state/gw/devices/" VAN "/connected", "false");
    rig_publish(rig, "command/gw/devices/" VAN, "{\"name\":\"nonsense\"}");
    rig_publish(rig, "command/gw/devices/" VAN, "mode,6,60#");
    device = rig_tcp(rig);
    device_send(device, report(VAN, 9));
    device_expect(device, "mode,6,60#");
    device_send(device, "mode=Success!");
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/custom/processed", NULL);
    rig_expect_counters(rig, "outbox: 0 messages");
    expect_one_at_a_time(broker, "trackbus/state/gw/devices/" VAN "/connected", 390, 2);
    for (size_t i = 0; i < scripted_broker_publishes(broker, "trackbus/state/#", "\"id\""); i++)
        expect_one_at_a_time(
            broker, scripted_broker_publish_at(broker, "trackbus/state/#", "\"id\"", i)->topic, 390, 1);
    scripted_broker_finish(broker);
}

// --- the end on a disk that takes nothing ---

static void send_until_disk_is_full(struct rig *rig, int device) {
    int64_t end = rig_clock() + 4 * RIG_DEADLINE;
    for (int i = 1; !rig_log_has(rig, "the store cannot be written"); i++) {
        cr_assert(rig_clock() < end, "the disk takes all");
        device_send(device, report(VAN, i));
        rig_wait_until(rig_clock() + 20);
    }
}

// Files that may not grow beyond some size are as good as a full disk. A report has come through before.
static struct rig *up_with_files_of(rlim_t bytes, int *van) {
    const struct rlimit limit = {.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN); // also in the gateway
    struct rig *rig = rig_up("{'telemetry':'off'}");
    *van = rig_tcp(rig);
    device_send(*van, report(VAN, 0));
    rig_expect(rig, "message/gw/devices/" VAN, NULL);
    cr_assert(prlimit(rig->gateway, RLIMIT_FSIZE, &limit, NULL) == 0);
    return rig;
}

Test(refusals, end_that_loses_messages_is_a_failure) {
    int van;
    struct rig *rig = up_with_files_of(160 << 10, &van);
    rig_broker_kill(rig);
    send_until_disk_is_full(rig, van);
    rig_gateway_signal(rig, SIGTERM);
    int code = rig_gateway_wait(rig);
    cr_expect_eq(code, 1, "it ended with %d", code);
    rig_expect_log(rig, "that waited to be written are lost");
    cr_expect(!rig_log_has(rig, "stay on disk"), "they do not");
    rig->finished = true;
}

// The number in front of a text of the log, where it comes last.
static long number_before(struct rig *rig, const char *text) {
    char line[1024];
    long number = -1;
    FILE *log = fopen(rig->log_path, "r");
    while (log != NULL && fgets(line, sizeof line, log) != NULL) {
        char *at = strstr(line, text);
        while (at != NULL && at > line && at[-1] >= '0' && at[-1] <= '9')
            at--;
        number = at != NULL ? strtol(at, NULL, 10) : number;
    }
    fclose(log);
    return number;
}

// Its answer says that it is on disk.
static void put_on_disk(int lorry, unsigned id, const uint8_t *position, size_t size) {
    uint8_t bytes[MAGICYO_FRAME_MAX];
    device_send_bytes(lorry, bytes, bytes_magicyo(bytes, LORRY, 0x03, id, position, size));
    device_expect_bytes(lorry, bytes, bytes_magicyo(bytes, LORRY, 0x04, id, position, 2));
}

// What the damage has cost does not stay there.
Test(refusals, end_says_what_stays_on_a_disk_that_was_damaged) {
    static const char changes[] = "{'telemetry':'off','channels':[{'id':2,'name':'magicyo',"
                                  "'protocol':'magicyo','tcp':'127.0.0.1:0'}]}";
    char store[TEMPORARY_MAX + 16];
    size_t size;
    uint8_t *position = bytes_unhex("04 00 01 5f5e1000 1a 00f6adfeaa 228b13 02db0f 00f00900c0 000005", &size);
    struct rig *rig = rig_up(changes);
    int lorry = rig_tcp_to(rig, "magicyo");
    rig_broker_kill(rig);
    for (unsigned id = 1; id <= 20; id++)
        put_on_disk(lorry, id, position, size);
    snprintf(store, sizeof store, "%s/store.db", rig->directory);
    cr_assert(truncate(store, 0) == 0);
    rig_expect_log(rig, "the store is damaged");
    put_on_disk(lorry, 21, position, size);
    free(position);
    rig_gateway_stop(rig);
    long stay = number_before(rig, " messages that the broker has not taken stay on disk");
    rig_gateway_spawn(rig, changes);
    rig_expect_log(rig, " messages are waiting since the last run");
    long wait = number_before(rig, " messages are waiting since the last run");
    cr_expect(stay == wait && stay < 40, "it said %ld, and %ld are there", stay, wait);
    rig_gateway_kill(rig);
    rig->finished = true;
}

// The log fits into less than SQLite writes at once. The broker has taken all, and the device has answered.
Test(refusals, end_on_a_full_disk_that_loses_nothing_is_none) {
    int van;
    struct rig *rig = up_with_files_of(4100, &van);
    rig_publish(rig, "command/gw/devices/" VAN, "{\"name\":\"nonsense\"}");
    rig_expect_log(rig, "the store cannot be written");
    rig_publish(rig, "command/gw/devices/" VAN, "mode,6,60#");
    device_expect(van, "mode,6,60#");
    device_send(van, "mode=Success!");
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/custom/processed", "{'executed':true}");
    rig_gateway_signal(rig, SIGTERM);
    int code = rig_gateway_wait(rig);
    cr_expect_eq(code, 0, "it ended with %d", code);
    cr_expect(rig_log_has(rig, "nothing is lost, but messages and commands may be sent again"));
    cr_expect(!rig_log_has(rig, "waited to be written are lost"));
    rig->finished = true;
}

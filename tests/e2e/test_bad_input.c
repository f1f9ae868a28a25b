// Bad input: it costs only itself, and the log says what was wrong and where.
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/e2e/rig.h"

TestSuite(bad_input, .fini = rig_clean);

#define REPORTS "message/gw/devices/+"
#define ALL     "message/gw/#"

// Whatever the bad input: the device beside it carries on, and only its reports were published.
static void expect_others_go_on(struct rig *rig, int other, int seqnum) {
    char subset[64];
    device_send(other, report(CAR, seqnum));
    snprintf(subset, sizeof subset, "{'ident':'" CAR "','message.seqnum':%d}", seqnum);
    rig_expect(rig, REPORTS, subset);
}

// --- bytes ---

Test(bad_input, binary_junk_before_a_report) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig), other = rig_tcp(rig);
    device_send_bytes(device, "\x00\x01\xFF\x1B[2J\x80\xFE\r\n", 11);
    device_send(device, report(VAN, 1));
    rig_expect(rig, REPORTS, "{'ident':'" VAN "','message.seqnum':1}");
    rig_expect_log(rig, "JUNK at offset 0: bytes that are no text: \"\\x00\\x01\\xff\\x1b\"");
    expect_others_go_on(rig, other, 1);
    cr_assert(rig_count(rig, ALL) == 4);
    rig_finish(rig);
}

Test(bad_input, text_that_is_no_report) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    device_send(device, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    device_send(device, report(VAN, 1));
    rig_expect(rig, REPORTS, "{'ident':'" VAN "'}");
    rig_expect_log(rig, "JUNK at offset 0: text that is neither a report nor an answer: \"GET / HTTP/1.1\"");
    rig_finish(rig);
}

Test(bad_input, a_kilobyte_of_junk_closes_the_connection) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig), other = rig_tcp(rig), late = rig_tcp(rig);
    device_send_junk(device);
    device_expect_closed(device);
    rig_expect_log(rig, "connection 1: not this protocol (code 19)");
    device_send(late, report(VAN, 1));
    rig_expect(rig, REPORTS, "{'ident':'" VAN "'}");
    device_send_junk(late); // also when it was this protocol before
    device_expect_closed(late);
    rig_expect_log(rig, "connection 3: parse error (code 6)");
    expect_others_go_on(rig, other, 1);
    rig_finish(rig);
}

Test(bad_input, a_kilobyte_of_junk_is_not_added_up_between_reports) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    char junk[602];
    memset(junk, '%', 600);
    strcpy(junk + 600, "\n");
    for (int i = 0; i < 4; i++) {
        device_send(device, junk);
        device_send(device, report(VAN, i));
    }
    rig_expect(rig, REPORTS, "{'message.seqnum':3}");
    cr_assert(!device_has_bytes(device));
    rig_finish(rig);
}

Test(bad_input, an_endless_line) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig), other = rig_tcp(rig);
    char line[4001];
    memset(line, 'a', 4000);
    line[4000] = '\0';
    device_send(device, line);
    device_expect_closed(device);
    rig_expect_log(rig, "a line without an end");
    expect_others_go_on(rig, other, 1);
    rig_finish(rig);
}

// Beginnings of reports that never become one, from somebody who never says who it is.
Test(bad_input, endless_headers) {
    enum { LENGTH = 90000 };
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig), other = rig_tcp(rig);
    static char headers[LENGTH + 1];
    for (size_t i = 0; i < LENGTH; i += 3)
        memcpy(headers + i, "MT;", 3);
    expect_others_go_on(rig, other, 1);
    device_send(other, headers); // a known device may send many that are wrong
    expect_others_go_on(rig, other, 2);
    send(device, headers, LENGTH, MSG_NOSIGNAL);
    rig_expect(rig, "log/gw/channels/1/connections/+/closed", "{'close_code':6}");
    rig_finish(rig);
}

Test(bad_input, an_endless_report) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig), other = rig_tcp(rig);
    char line[6001] = "MT;6;" VAN ";R1;190108024848+";
    size_t start = strlen(line);
    memset(line + start, ',', 6000 - start);
    line[6000] = '\0';
    device_send(device, line);
    device_expect_closed(device);
    rig_expect_log(rig, "without an end");
    expect_others_go_on(rig, other, 1);
    rig_finish(rig);
}

Test(bad_input, a_datagram_of_junk) {
    struct rig *rig = rig_up(NULL);
    int device = rig_udp(rig);
    device_send_junk(device);
    device_send(device, "MT;6;8664250313"); // cut off
    device_send(device, report(VAN, 1));
    device_send_junk(device);
    device_send(device, report(VAN, 2));
    rig_expect(rig, REPORTS, "{'message.seqnum':1}");
    rig_expect(rig, REPORTS, "{'message.seqnum':2}");
    rig_expect_log(rig, "bytes that are no text");
    cr_assert(rig_count(rig, ALL) == 4);
    rig_finish(rig);
}

Test(bad_input, never_breaks_a_log_in_json) {
    struct rig *rig = rig_up("{'log':{'format':'json','level':'debug'}}");
    int device = rig_tcp(rig);
    char line[1024];
    size_t lines = 0;
    device_send_bytes(device, "\xFF\x1B\"\\\n\xC3\"}\r\n", 10);
    device_send(device, report(VAN, 1));
    rig_expect(rig, REPORTS, "{'ident':'" VAN "'}");
    rig_gateway_stop(rig);
    FILE *log = fopen(rig->log_path, "r");
    for (; fgets(line, sizeof line, log) != NULL; lines++) {
        json_t *json = json_loads(line, 0, NULL);
        cr_assert(json_is_string(json_object_get(json, "text")), "no JSON: %s", line);
        json_decref(json);
    }
    fclose(log);
    cr_assert(lines > 5);
    rig->finished = true;
}

// --- reports: rejected as a whole, or with one value less ---

static const struct rejected {
    const char *report;
    const char *log;
} rejected[] = {
    {"MT;6;86642503136142;R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113", "IMEI"},
    {"MT;6;86642503136142A;R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113", "IMEI"},
    {"MT;6;8664250313614233;R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113", "IMEI"},
    {"MT;x;" VAN ";R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113", "mode"},
    {"MT;6;" VAN ";R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744", "items"},
    {"MT;6;" VAN, "BAD_VALUE"},
};

Test(bad_input, reports_that_are_rejected) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    for (size_t i = 0; i < sizeof rejected / sizeof rejected[0]; i++) {
        device_send(device, rejected[i].report);
        device_send(device, "\r\n");
        expect_others_go_on(rig, device, (int)i);
        rig_expect_log(rig, rejected[i].log);
    }
    cr_assert(rig_count(rig, REPORTS) == sizeof rejected / sizeof rejected[0]);
    cr_assert(rig_log_count(rig, "records rejected") == sizeof rejected / sizeof rejected[0]);
    rig_finish(rig);
}

static const struct removed {
    const char *data;
    const char *field;
    const char *log;
} removed[] = {
    {"10+190109091803+95+114.02922+2.14+69+2+3744+113", "position.latitude", "95"},
    {"10+190109091803+22.63827+-181.5+2.14+69+2+3744+113", "position.longitude", "-181.5"},
    {"10+190109091803+22.63827+114.02922+2.14+69+2+abc+113", "battery.voltage", "abc"},
    {"10+190199091803+22.63827+114.02922+2.14+69+2+3744+113", NULL, "190199091803"},
    {"10+800106000317+22.63827+114.02922+2.14+69+2+3744+113", NULL, "800106000317"},
    {"10+691231235959+22.63827+114.02922+2.14+69+2+3744+113", NULL, "691231235959"},
    {"10+190109096003+22.63827+114.02922+2.14+69+2+3744+113", NULL, "190109096003"},
    {"10+190109091803+22.63827+114.02922+\xFF\x01+69+2+3744+113", "position.speed", "\\xff\\x01"},
    {"10+190109091803+22.63827+114.02922+1e99+69+2+3744+113", "position.speed", "1e99"},
    {"10+190109091803+22.63827+114.02922+2.14+nan+2+3744+113", "position.direction", "nan"},
    {"10+190109091803+22.63827+114.02922+2.14+69+2+99999999999999999999+113", "battery.voltage", "9999999"},
};

// Only that value is missing from the report; in place of an impossible time stands the server's.
static void check_removed(const struct removed *it, const json_t *message) {
    static const char *const fields[] = {"position.latitude",  "position.longitude", "position.speed",
                                         "position.direction", "battery.voltage",    "position.satellites",
                                         "message.seqnum",     "event.enum"};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        bool there = json_object_get(message, fields[i]) != NULL;
        bool wanted = it->field == NULL || strcmp(it->field, fields[i]) != 0;
        bool with_it = it->field != NULL && strncmp(it->field, "position.l", 10) == 0 &&
                       strncmp(fields[i], "position.l", 10) == 0; // half a position is none
        cr_assert(there == wanted || with_it, "%s: %s is %s", it->data, fields[i],
                  there ? "there" : "missing");
    }
    bool same =
        json_equal(json_object_get(message, "timestamp"), json_object_get(message, "server.timestamp"));
    cr_assert(same == (it->field == NULL), "%s: timestamp", it->data);
}

Test(bad_input, values_that_are_left_out) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    for (size_t i = 0; i < sizeof removed / sizeof removed[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, "MT;6;" VAN ";R0;%s\r\n", removed[i].data);
        device_send(device, text);
        json_t *message = json_of(rig_expect(rig, REPORTS, "{'message.type':'R0'}"));
        check_removed(&removed[i], message);
        json_decref(message);
        rig_expect_log(rig, removed[i].log);
        rig_expect_log(rig, removed[i].field != NULL ? removed[i].field : "timestamp");
    }
    rig_finish(rig);
}

// The log writes only so many similar lines about one address in a second, and counts the rest.
struct again {
    struct rig *rig;
    int device;
};

static bool says_more(void *context) {
    const struct again *again = context;
    char reports[4096] = "";
    for (int i = 0; i < 40; i++)
        sprintf(reports + strlen(reports), "MT;x;" VAN ";R0;%d\r\n", i);
    device_send(again->device, reports);
    return rig_log_has(again->rig, " more like it before)");
}

Test(bad_input, again_and_again_is_counted_in_the_log) {
    struct rig *rig = rig_up(NULL);
    struct again again = {rig, rig_tcp(rig)};
    cr_assert(rig_wait(says_more, &again, RIG_DEADLINE), "the log does not count");
    rig_finish(rig);
}

// --- who may connect ---

#define REGISTRY "'devices':[{'ident':'" CAR "','id':5}]"

Test(bad_input, unknown_devices_on_the_channel_topic_only) {
    struct rig *rig = rig_up("{'unknown_devices':'channel'," REGISTRY "}");
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    json_t *message = json_of(rig_expect(rig, "message/gw/channels/1/" VAN, NULL));
    cr_assert(json_object_get(message, "device.id") == NULL);
    cr_assert(json_object_get(message, "device.name") == NULL);
    cr_assert(json_object_get(message, "device.type.id") == NULL);
    json_decref(message);
    device_send(rig_tcp(rig), report(CAR, 1));
    rig_expect(rig, "message/gw/devices/5", NULL);
    cr_assert(rig_count(rig, ALL) == 3);
    rig_publish(rig, "command/gw/channels/1/" VAN, "reboot,0#");
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!");
    rig_expect(rig, "log/gw/channels/1/" VAN "/commands-queue/custom/processed", "{'executed':true}");
    rig_finish(rig);
}

Test(bad_input, unknown_devices_on_the_channel_topic_although_only_devices_are_asked_for) {
    struct rig *rig = rig_up("{'unknown_devices':'channel','messages':['devices']}");
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect(rig, "message/gw/channels/1/" VAN, NULL);
    rig_finish(rig);
}

Test(bad_input, unknown_devices_are_rejected) {
    struct rig *rig = rig_up("{'unknown_devices':'reject'," REGISTRY "}");
    int device = rig_tcp(rig), datagrams = rig_udp(rig);
    device_send(device, report(VAN, 1));
    device_expect_closed(device);
    rig_expect_log(rig, "device " VAN " is not in the registry");
    rig_expect_log(rig, "connection 1: device not allowed (code 13)");
    device_send(datagrams, report(VAN, 2));
    device_send(datagrams, report(CAR, 3));
    rig_expect(rig, "message/gw/devices/5", "{'message.seqnum':3}");
    cr_assert(rig_count(rig, ALL) == 2);
    rig_finish(rig);
}

Test(bad_input, more_connections_than_an_address_may_have) {
    struct rig *rig = rig_up("{'limits':{'connections_per_address':2}}");
    int first = rig_tcp(rig), second = rig_tcp(rig);
    rig_expect_log(rig, "connection 2 accepted\n");
    int third = rig_tcp(rig);
    device_expect_closed(third);
    rig_expect_log(rig, "2 connections are open from this address (limits.connections_per_address)");
    rig_expect_log(rig, "connection 3: limit reached (code 20)");
    rig_expect_counters(rig, "over the limits: 1 connections");
    expect_others_go_on(rig, second, 1);
    close(first);
    rig_expect_log(rig, "connection 1: closed by the device");
    expect_others_go_on(rig, rig_tcp(rig), 2);
    rig_finish(rig);
}

Test(bad_input, more_connections_than_there_may_be) {
    struct rig *rig = rig_up("{'limits':{'connections':1}}");
    int first = rig_tcp(rig);
    rig_expect_log(rig, "connection 1 accepted\n");
    device_expect_closed(rig_tcp(rig));
    rig_expect_log(rig, "1 connections are open (limits.connections)");
    expect_others_go_on(rig, first, 1);
    rig_finish(rig);
}

static int udp_from(const char *address, int port) {
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = inet_addr(address)};
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int device = socket(AF_INET, SOCK_DGRAM, 0);
    cr_assert(bind(device, (struct sockaddr *)&from, sizeof from) == 0);
    cr_assert(connect(device, (struct sockaddr *)&to, sizeof to) == 0);
    return device;
}

// One a second: the rest is dropped, but not what comes from another address.
Test(bad_input, more_datagrams_than_an_address_may_send) {
    struct rig *rig = rig_up("{'limits':{'datagrams_per_second':1}}");
    int port = rig_udp_port(rig, "mictrack"), many = udp_from("127.0.0.1", port);
    for (int i = 0; i < 40; i++)
        device_send(many, report(VAN, i));
    device_send(udp_from("127.0.0.2", port), report(CAR, 1));
    rig_expect(rig, REPORTS, "{'ident':'" CAR "','message.seqnum':1}");
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':0}");
    cr_assert(rig_count(rig, "message/gw/devices/" VAN) < 40);
    rig_finish(rig);
}

Test(bad_input, connections_that_do_not_say_who_they_are) {
    struct rig *rig = rig_up("{'limits':{'identify_timeout':1}}");
    int silent = rig_tcp(rig), known = rig_tcp(rig), talking = rig_tcp(rig);
    device_send(known, report(VAN, 1));
    device_send(talking, "mode=Success!\r\n"); // which says nothing of who it is
    device_expect_closed(silent);
    device_expect_closed(talking);
    rig_expect_log(rig, "connection 1: silent for too long (code 17)");
    rig_expect_log(rig, "connection 3: silent for too long (code 17)");
    rig_expect_log(rig, "NOT_IDENTIFIED");
    expect_others_go_on(rig, known, 1);
    rig_finish(rig);
}

Test(bad_input, connections_that_fall_silent) {
    struct rig *rig = rig_up("{'limits':{'idle_timeout':1}}");
    int silent = rig_tcp(rig);
    device_send(silent, report(VAN, 1));
    device_expect_closed(silent);
    rig_expect_log(rig, "device " VAN ": connection 1: silent for too long (code 17)");
    expect_others_go_on(rig, rig_tcp(rig), 1);
    rig_finish(rig);
}

// --- the configuration ---

Test(bad_input, an_unknown_key_ends_the_start) {
    struct rig *rig = rig_new();
    rig_expect_no_start(rig, "{'mqtt':{'urll':'x'},'channel':[]}", "$.mqtt.urll: ");
    rig_expect_log(rig, "$.channel: ");
    rig->finished = true;
}

Test(bad_input, a_port_in_use_costs_only_its_channel) {
    struct rig *rig = rig_up(NULL);
    char changes[512];
    snprintf(changes, sizeof changes,
             "{'mqtt':{'client_id':'second'},'store':{'path':'%s/second.db'},'channels':["
             "{'id':1,'name':'taken','protocol':'mictrack','tcp':'127.0.0.1:%d','udp':'127.0.0.1:%d'},"
             "{'id':2,'name':'free','protocol':'mictrack','tcp':'127.0.0.1:0'}]}",
             rig->directory, rig_tcp_port(rig, "mictrack"), rig_udp_port(rig, "mictrack"));
    pid_t first = rig->gateway;
    rig_gateway_start(rig, changes);
    rig_expect_log(rig, "channel taken: cannot listen on tcp 127.0.0.1:");
    rig_expect_log(rig, "channel taken: cannot listen on udp 127.0.0.1:");
    rig_expect_log(rig, "address already in use");
    device_send(rig_tcp_to(rig, "free"), report(VAN, 1));
    rig_expect(rig, "message/gw/channels/2/" VAN, NULL);
    rig_gateway_stop(rig);
    rig->gateway = first;
    rig_finish(rig);
}

Test(bad_input, no_free_port_at_all_ends_the_start) {
    struct rig *rig = rig_up(NULL);
    char changes[256];
    snprintf(
        changes, sizeof changes,
        "{'store':{'path':'%s/second.db'},'channels':[{'id':1,'protocol':'mictrack','tcp':'127.0.0.1:%d'}]}",
        rig->directory, rig_tcp_port(rig, "mictrack"));
    pid_t first = rig->gateway;
    rig_expect_no_start(rig, changes, "address already in use");
    rig_expect_log(rig, "no tracker can connect");
    rig->gateway = first;
    rig_finish(rig);
}

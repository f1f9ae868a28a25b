// Relays: one connection, or one address, that speaks for several devices. All of them are connected.
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/bytes.h"
#include "tests/e2e/command_life.h"
#include "tests/e2e/rig.h"

TestSuite(relay, .fini = rig_clean, .timeout = 60);

#define DEVICE(ident, rest) "state/gw/devices/" ident "/" rest
#define EVENTS(ident, what) "log/gw/devices/" ident "/" what
#define CLOSED              "log/gw/channels/1/connections/+/closed"

static void expect_report(struct rig *rig, int device, const char *ident, int seqnum) {
    char subset[96];
    device_send(device, report(ident, seqnum));
    snprintf(subset, sizeof subset, "{'ident':'%s','message.seqnum':%d}", ident, seqnum);
    rig_expect(rig, "message/gw/devices/+", subset);
}

static void expect_command(struct rig *rig, const char *ident, int device, const char *command) {
    char topic[64];
    snprintf(topic, sizeof topic, "command/gw/devices/%s", ident);
    rig_publish(rig, topic, command);
    device_expect(device, command);
    device_send(device, "\r\n");
}

static void expect_both_to_stay(struct rig *rig, int device) {
    for (int i = 0; i < 3; i++) {
        expect_report(rig, device, VAN, i);
        expect_report(rig, device, CAR, i);
    }
    rig_expect_standing(rig, DEVICE(VAN, "connected"), "true");
    rig_expect_standing(rig, DEVICE(CAR, "connected"), "true");
    cr_assert(rig_count(rig, EVENTS("+", "connected")) == 2, "they come again and again");
    expect_none(rig, EVENTS("+", "disconnected"));
    cr_assert(rig_log_count(rig, "identified") == 2);
    expect_command(rig, VAN, device, "mode,1,10#"); // CAR spoke last
    expect_command(rig, CAR, device, "mode,2,20#");
}

Test(relay, devices_of_a_connection_all_stay_until_it_ends) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    expect_both_to_stay(rig, device);
    close(device);
    rig_expect(rig, EVENTS(VAN, "disconnected"), NULL);
    rig_expect(rig, EVENTS(CAR, "disconnected"), NULL);
    rig_expect_standing(rig, DEVICE(VAN, "connected"), "false");
    rig_expect_standing(rig, DEVICE(CAR, "connected"), "false");
    rig_finish(rig);
}

Test(relay, devices_of_a_udp_address_all_stay_until_it_is_idle) {
    struct rig *rig = rig_up("{'limits':{'idle_timeout':5}}");
    int device = rig_udp(rig);
    expect_both_to_stay(rig, device);
    rig_expect(rig, EVENTS(VAN, "disconnected"), NULL);
    rig_expect(rig, EVENTS(CAR, "disconnected"), NULL);
    rig_finish(rig);
}

// Both speak in what is read at once, and both get what waited for them.
Test(relay, commands_that_wait_go_out_to_all_who_spoke) {
    struct rig *rig = rig_up(NULL);
    char both[512];
    rig_publish(rig, "command/gw/devices/" VAN, "mode,1,10#");
    rig_publish(rig, "command/gw/devices/" CAR, "mode,2,20#");
    rig_expect(rig, EVENTS(VAN, "commands-queue/+/queued"), NULL);
    rig_expect(rig, EVENTS(CAR, "commands-queue/+/queued"), NULL);
    int device = rig_tcp(rig);
    snprintf(both, sizeof both, "%s%s", report(VAN, 1), report(CAR, 1));
    device_send(device, both);
    rig_expect(rig, EVENTS(VAN, "commands-queue/+/sent"), NULL);
    rig_expect(rig, EVENTS(CAR, "commands-queue/+/sent"), NULL);
    rig_finish(rig);
}

// A device that leaves the relay leaves the others there.
Test(relay, device_that_connects_by_itself_closes_no_relay) {
    struct rig *rig = rig_up(NULL);
    int relay = rig_tcp(rig), alone = rig_tcp(rig);
    expect_report(rig, relay, VAN, 1);
    expect_report(rig, relay, CAR, 1);
    expect_report(rig, alone, VAN, 2);
    expect_command(rig, VAN, alone, "mode,1,10#");
    expect_command(rig, CAR, relay, "mode,2,20#");
    expect_report(rig, relay, CAR, 2);
    expect_report(rig, relay, VAN, 3); // and comes back
    device_expect_closed(alone);
    rig_expect(rig, CLOSED, "{'close_code':12,'ident':'" VAN "'}");
    expect_none(rig, EVENTS("+", "disconnected"));
    cr_assert(rig_count(rig, CLOSED) == 1);
    rig_finish(rig);
}

Test(relay, device_that_is_no_longer_allowed_is_gone_and_the_others_stay) {
    struct rig *rig = rig_new();
    rig_write_json(rig, "devices.json", "[{'ident':'" VAN "','id':1},{'ident':'" CAR "','id':2}]");
    char changes[160];
    snprintf(changes, sizeof changes, "{'devices_file':'%s/devices.json','unknown_devices':'reject'}",
             rig->directory);
    rig_broker_start(rig, NULL);
    rig_client_start(rig);
    rig_gateway_start(rig, changes);
    rig_expect_state(rig);
    int relay = rig_tcp(rig);
    expect_report(rig, relay, VAN, 1);
    expect_report(rig, relay, CAR, 1);
    rig_write_json(rig, "devices.json", "[{'ident':'" CAR "','id':2}]");
    rig_gateway_signal(rig, SIGHUP);
    rig_expect(rig, EVENTS("1", "disconnected"), NULL);
    expect_report(rig, relay, CAR, 2);
    expect_none(rig, EVENTS("2", "disconnected"));
    rig_finish(rig);
}

Test(relay, connection_that_was_there_stays_when_that_is_wanted) {
    struct rig *rig = rig_up("{'limits':{'takeover':'keep'}}");
    int first = rig_tcp(rig), second = rig_tcp(rig);
    expect_report(rig, first, VAN, 1);
    device_send(second, report(VAN, 2));
    device_expect_closed(second);
    rig_expect_log(rig, "device " VAN " has a connection, which stays (limits.takeover)");
    rig_expect(rig, CLOSED, "{'close_code':12,'ident':'" VAN "'}");
    expect_report(rig, first, VAN, 3);
    cr_assert(rig_count(rig, "message/gw/devices/" VAN) == 2);
    close(first);
    rig_expect(rig, EVENTS(VAN, "disconnected"), NULL);
    int third = rig_tcp(rig);
    expect_report(rig, third, VAN, 4);
    rig_finish(rig);
}

// Two who say the same ident are told once, and do not take over from each other all the time.
Test(relay, two_connections_with_one_ident_are_told_and_bounded) {
    struct rig *rig = rig_up(NULL);
    for (int i = 0; i <= 1; i++)
        expect_report(rig, rig_tcp_from(rig, i % 2 == 0 ? "127.0.0.2" : "127.0.0.3"), VAN, i);
    int64_t start = rig_clock();
    for (int i = 2; i <= 4; i++)
        expect_report(rig, rig_tcp_from(rig, i % 2 == 0 ? "127.0.0.2" : "127.0.0.3"), VAN, i);
    cr_assert(rig_clock() - start >= 1900, "one in a second");
    cr_assert(rig_log_count(rig, "device " VAN ": waits, since 127.0.0.3:") == 1);
    rig_expect(rig, EVENTS(VAN, "takeover"), "{'event_code':399,'ident':'" VAN "'}");
    cr_assert(rig_count(rig, EVENTS(VAN, "takeover")) == 1);
    cr_assert(rig_log_count(rig, "takes over from 127.0.0.2:") == 1);
    expect_report(rig, rig_tcp(rig), CAR, 1);
    rig_finish(rig);
}

// A radio that loses its connections leaves them behind. Nothing acknowledges what it says: a connection that has
// reached us is a report that must come.
Test(relay, device_with_a_connection_for_each_report_loses_none) {
    struct rig *rig = rig_up_at("+0 x10", NULL);
    char subset[32];
    for (int i = 0; i < 200; i++)
        device_send(rig_tcp(rig), report(VAN, i));
    for (int i = 0; i < 200; i++) {
        snprintf(subset, sizeof subset, "{'message.seqnum':%d}", i);
        rig_expect(rig, "message/gw/devices/" VAN, subset);
    }
    cr_assert(rig_count(rig, "message/gw/devices/" VAN) == 200);
    rig_finish(rig);
}

// A report that ends with a silence is taken before its connection is closed.
Test(relay, device_that_connects_again_has_said_what_it_said_before) {
    struct rig *rig = rig_up(NULL);
    int before = rig_tcp(rig), after = rig_tcp(rig);
    char unended[128];
    expect_report(rig, before, VAN, 1);
    strcpy(unended, report(VAN, 2));
    unended[strcspn(unended, "\r")] = '\0';
    device_send(before, unended);
    device_send(after, report(VAN, 3));
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':2}");
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':3}");
    device_expect_closed(before);
    rig_finish(rig);
}

// It costs what this device says, and closes no relay.
Test(relay, device_whose_connection_stays_costs_the_relay_its_own_reports_alone) {
    struct rig *rig = rig_up("{'limits':{'takeover':'keep'}}");
    int alone = rig_tcp(rig), relay = rig_tcp(rig);
    expect_report(rig, alone, VAN, 1);
    expect_report(rig, relay, CAR, 1);
    device_send(relay, report(VAN, 2));
    rig_expect_log(rig, "device " VAN " has a connection, which stays (limits.takeover)");
    expect_report(rig, relay, CAR, 2);
    expect_report(rig, alone, VAN, 3);
    cr_assert(rig_count(rig, "message/gw/devices/" VAN) == 2 && rig_count(rig, CLOSED) == 0);
    rig_finish(rig);
}

#define STRANGER "866425031399999"

static struct rig *with_a_registry(void) {
    return rig_up("{'unknown_devices':'reject','devices':[{'ident':'" VAN "','id':1},{'ident':'" CAR
                  "','id':2}],'limits':{'idle_timeout':600}}");
}

static void expect_stranger_to_cost_himself(struct rig *rig, int relay) {
    char all[768];
    expect_report(rig, relay, VAN, 1);
    device_send(relay, report(STRANGER, 1));
    rig_expect(rig, "log/gw/channels/1/error", "{'verdict':'REJECTED','ident':'" STRANGER "'}");
    snprintf(all, sizeof all, "%s%s%s%s", report(STRANGER, 2), report(CAR, 2), report(STRANGER, 3),
             report(VAN, 4));
    device_send(relay, all);
    rig_expect(rig, "message/gw/devices/2", "{'message.seqnum':2}");
    rig_expect(rig, "message/gw/devices/1", "{'message.seqnum':4}");
    cr_assert(rig_count(rig, "message/gw/channels/1/" STRANGER) == 0);
    cr_assert(rig_count(rig, CLOSED) == 0 && rig_count(rig, EVENTS("+", "disconnected")) == 0);
    rig_finish(rig);
}

Test(relay, device_that_is_not_allowed_costs_the_others_nothing) {
    struct rig *rig = with_a_registry();
    expect_stranger_to_cost_himself(rig, rig_tcp(rig));
}

Test(relay, device_that_is_not_allowed_costs_the_others_of_a_udp_address_nothing) {
    struct rig *rig = with_a_registry();
    expect_stranger_to_cost_himself(rig, rig_udp(rig));
}

// What was not taken of it is new when it is allowed.
Test(relay, magicyo_device_that_is_allowed_later_has_lost_nothing_that_it_repeats) {
    struct rig *rig = rig_new();
    static const uint8_t data[] = {0x01, 0x03};
    uint8_t bytes[MAGICYO_FRAME_MAX];
    char changes[300];
    snprintf(changes, sizeof changes,
             "{'unknown_devices':'reject','devices_file':'%s/devices.json','channels':[{'id':2,"
             "'name':'magicyo','protocol':'magicyo','tcp':'127.0.0.1:0'}]}",
             rig->directory);
    rig_write_json(rig, "devices.json", "[{'ident':'" LORRY "','id':1}]");
    rig_broker_start(rig, NULL);
    rig_client_start(rig);
    rig_gateway_start(rig, changes);
    rig_expect_state(rig);
    int relay = rig_tcp_to(rig, "magicyo");
    device_send_bytes(relay, bytes, bytes_magicyo(bytes, LORRY, 0x03, 1, data, sizeof data));
    device_expect_bytes(relay, bytes, bytes_magicyo(bytes, LORRY, 0x04, 1, data, sizeof data));
    device_send_bytes(relay, bytes, bytes_magicyo(bytes, STRANGER, 0x03, 2, data, sizeof data));
    rig_expect_log(rig, "device " STRANGER " is not in the registry");
    rig_write_json(rig, "devices.json", "[{'ident':'" LORRY "','id':1},{'ident':'" STRANGER "','id':2}]");
    rig_gateway_signal(rig, SIGHUP);
    json_decref(rig_expect_standing_json(rig, "state/gw/devices/2", "{}"));
    device_send_bytes(relay, bytes, bytes_magicyo(bytes, STRANGER, 0x03, 2, data, sizeof data));
    device_expect_bytes(relay, bytes, bytes_magicyo(bytes, STRANGER, 0x04, 2, data, sizeof data));
    rig_expect(rig, "message/gw/devices/2", "{'message.seqnum':2}");
    rig_finish(rig);
}

// There is an end to it: whoever reaches the port could register all the numbers that there are.
Test(relay, connection_speaks_for_a_thousand_devices_at_most) {
    struct rig *rig =
        rig_up("{'telemetry':'off','messages':['channels'],'limits':{'unknown_devices':20000}}");
    int device = rig_tcp(rig);
    char ident[16];
    for (int i = 0; i <= 1000; i++) {
        snprintf(ident, sizeof ident, "86642503%07d", i);
        device_send(device, report(ident, i));
    }
    rig_expect_count(rig, "message/gw/channels/1/+", 1001);
    rig_expect_log(rig,
                   "speaks for more than 1000 devices: 866425030000000, heard longest ago, is disconnected");
    rig_expect(rig, EVENTS("866425030000000", "disconnected"), NULL);
    cr_assert(rig_count(rig, EVENTS("+", "disconnected")) == 1);
    cr_assert(rig_log_count(rig, "(code ") == 0);
    rig_finish(rig);
}

// --- Magicyo, whose frames all have an IMEI, and whose answers and commands have it too ---

#define TRUCK "864867022511016" // which speaks MK100; LORRY speaks V2
#define MAGICYO                                                                                              \
    "{'limits':{'idle_timeout':%d},'channels':[{'id':2,'name':'magicyo','protocol':'magicyo','tcp':'127.0."  \
    "0.1:0','udp':'127.0.0.1:0'}]}"

#define DATA       0x03
#define ANSWER     0x04
#define HEARTBEAT  0x0C
#define HEARD      0x0D
#define DISCONNECT 0x0E
#define IGNITION   "\x01\x03" // a subtype that is not known, and so without values

struct bytes {
    uint8_t data[MAGICYO_FRAME_MAX];
    size_t length;
};

// A frame of LORRY or TRUCK, in its form.
static struct bytes frame(const char *imei, uint8_t type, uint16_t id, const char *data, size_t length) {
    struct bytes frame = {.data = {0x55, 0x55}};
    if (strcmp(imei, LORRY) == 0) {
        frame.length = bytes_magicyo(frame.data, imei, type, id, data, length);
        return frame;
    }
    bytes_put(frame.data + 2, id, 2);
    memcpy(frame.data + 4, imei, 15);
    frame.data[19] = type;
    bytes_put(frame.data + 20, (uint32_t)length, 2);
    memcpy(frame.data + 22, data, length);
    bytes_put(frame.data + 22 + length, 0xAAAA, 3);
    frame.length = 25 + length;
    return frame;
}

static void say(int device, const char *imei, uint8_t type, uint16_t id, const char *data) {
    struct bytes bytes = frame(imei, type, id, data, strlen(data));
    device_send_bytes(device, bytes.data, bytes.length);
}

static void hear(int device, const char *imei, uint8_t type, uint16_t id, const char *data) {
    struct bytes bytes = frame(imei, type, id, data, strlen(data));
    device_expect_bytes(device, bytes.data, bytes.length);
}

static void expect_data(struct rig *rig, int device, const char *imei, uint16_t id) {
    char subset[96];
    say(device, imei, DATA, id, IGNITION);
    hear(device, imei, ANSWER, id, IGNITION);
    snprintf(subset, sizeof subset, "{'ident':'%s','message.seqnum':%d}", imei, id);
    rig_expect(rig, "message/gw/devices/+", subset);
}

static void expect_calibration(struct rig *rig, int device, const char *imei) {
    char topic[64];
    snprintf(topic, sizeof topic, "command/gw/devices/%s", imei);
    rig_publish(rig, topic, "{\"name\":\"accelerometer.calibrate\"}");
    hear(device, imei, DATA, 1, "\xf1\x07");
}

// Both count their frames alike, and the gateway counts its commands to each of them.
static void expect_both_to_be_kept_apart(struct rig *rig, int device) {
    for (uint16_t id = 1; id <= 3; id++) {
        expect_data(rig, device, LORRY, id);
        expect_data(rig, device, TRUCK, id);
    }
    say(device, LORRY, DATA, 1, IGNITION); // a repeat
    hear(device, LORRY, ANSWER, 1, IGNITION);
    expect_calibration(rig, device, LORRY);
    expect_calibration(rig, device, TRUCK);
    say(device, TRUCK, ANSWER, 1, "\xf1\x07");
    rig_expect(rig, EVENTS(TRUCK, "commands-queue/+/processed"), "{'executed':true}");
    say(device, LORRY, ANSWER, 1, "\xf1\x07");
    rig_expect(rig, EVENTS(LORRY, "commands-queue/+/processed"), "{'executed':true}");
    rig_expect_standing(rig, DEVICE(LORRY, "connected"), "true");
    rig_expect_standing(rig, DEVICE(TRUCK, "connected"), "true");
    cr_assert(rig_count(rig, "message/gw/devices/+") == 6, "a repeat was published, or what is none was not");
    cr_assert(rig_count(rig, EVENTS("+", "connected")) == 2, "they come again and again");
    expect_none(rig, EVENTS("+", "disconnected"));
    cr_assert(rig_log_count(rig, "identified") == 2);
}

static struct rig *magicyo_up(int idle_timeout) {
    char changes[256];
    snprintf(changes, sizeof changes, MAGICYO, idle_timeout);
    return rig_up(changes);
}

Test(relay, magicyo_devices_of_a_connection_are_kept_apart) {
    struct rig *rig = magicyo_up(60);
    int device = rig_tcp_to(rig, "magicyo");
    expect_both_to_be_kept_apart(rig, device);
    close(device);
    rig_expect(rig, EVENTS(LORRY, "disconnected"), NULL);
    rig_expect(rig, EVENTS(TRUCK, "disconnected"), NULL);
    rig_finish(rig);
}

Test(relay, magicyo_devices_of_a_udp_address_are_kept_apart) {
    struct rig *rig = magicyo_up(5);
    expect_both_to_be_kept_apart(rig, rig_udp_to(rig, "magicyo"));
    rig_expect(rig, EVENTS(LORRY, "disconnected"), NULL);
    rig_expect(rig, EVENTS(TRUCK, "disconnected"), NULL);
    rig_finish(rig);
}

Test(relay, device_that_says_goodbye_leaves_the_others_there) {
    struct rig *rig = magicyo_up(60);
    int device = rig_tcp_to(rig, "magicyo");
    expect_data(rig, device, LORRY, 1);
    expect_data(rig, device, TRUCK, 1);
    expect_calibration(rig, device, LORRY); // which it does not answer
    say(device, LORRY, DISCONNECT, 2, "");
    rig_expect(rig, EVENTS(LORRY, "disconnected"), NULL);
    expect_data(rig, device, TRUCK, 2);
    expect_none(rig, EVENTS(TRUCK, "disconnected"));
    say(device, LORRY, HEARTBEAT, 1, ""); // it is back, and counts anew
    hear(device, LORRY, HEARD, 1, "");
    hear(device, LORRY, DATA, 1, "\xf1\x07"); // what it did not answer goes out again, as it would elsewhere
    expect_data(rig, device, LORRY, 1);
    cr_assert(rig_count(rig, EVENTS(LORRY, "connected")) == 2);
    say(device, LORRY, DISCONNECT, 2, "");
    say(device, TRUCK, DISCONNECT, 3, "");
    device_expect_closed(device);
    rig_expect(rig, EVENTS(TRUCK, "disconnected"), NULL);
    rig_expect_log(rig, "closed by the device (code 2)");
    rig_finish(rig);
}

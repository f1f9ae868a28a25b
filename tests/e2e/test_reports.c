// Reports end to end: bytes of a tracker in, messages at the broker out.
#include <criterion/criterion.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/e2e/rig.h"

TestSuite(reports, .fini = rig_clean);

#define DEVICES "message/gw/devices/+"
#define ALL     "message/gw/#"

// Cuts server.timestamp, which no test can know, out of a payload, and checks its form.
static char *without_time(const char *payload) {
    static char text[2048];
    regex_t pattern;
    regmatch_t match[1];
    regcomp(&pattern, "\"server\\.timestamp\":[0-9]{10}(\\.[0-9]{0,5}[1-9])?,", REG_EXTENDED);
    cr_assert(regexec(&pattern, payload, 1, match, 0) == 0, "no server.timestamp: %s", payload);
    snprintf(text, sizeof text, "%.*s%s", (int)match[0].rm_so, payload, payload + match[0].rm_eo);
    regfree(&pattern);
    return text;
}

// The very text of a message of report(VAN, 113), from that peer.
static void expect_van(struct rig *rig, const char *topic, const char *peer) {
    char expected[1024];
    snprintf(expected, sizeof expected,
             "{\"battery.voltage\":3.744,\"channel.id\":1,\"custom.work.mode\":6,\"device.id\":" VAN
             ",\"device.name\":\"" VAN "\",\"device.type.id\":0,\"event.enum\":2,\"ident\":\"" VAN
             "\",\"message.seqnum\":113,\"message.type\":\"R0\",\"peer\":\"%s\",\"position.direction\":69,"
             "\"position.latitude\":22.63827,\"position.longitude\":114.02922,\"position.satellites\":10,"
             "\"position.speed\":2.14,\"position.valid\":true,\"protocol.id\":1,\"timestamp\":1547025483}",
             peer);
    const struct rig_message *message = rig_expect(rig, topic, NULL);
    cr_assert_str_eq(without_time(message->payload), expected, "came     %s\nexpected %s", message->payload,
                     expected);
    cr_assert(!message->retain);
}

static void expect_van_on_both(struct rig *rig, const char *host, int device) {
    char peer[64];
    snprintf(peer, sizeof peer, "%s:%d", host, device_port(device));
    expect_van(rig, "message/gw/channels/1/" VAN, peer);
    expect_van(rig, "message/gw/devices/" VAN, peer);
    cr_assert(rig_count(rig, ALL) == 2);
}

// The messages of one device have these sequence numbers, one after the other, and no others.
static void expect_sequence(struct rig *rig, const char *ident, int first, int last) {
    char topic[64], subset[64];
    snprintf(topic, sizeof topic, "message/gw/devices/%s", ident);
    for (int i = first; i <= last; i++) {
        snprintf(subset, sizeof subset, "{'message.seqnum':%d,'ident':'%s'}", i, ident);
        rig_expect(rig, topic, subset);
    }
    cr_assert(rig_count(rig, topic) == (size_t)(last - first + 1), "%zu messages on %s",
              rig_count(rig, topic), topic);
    size_t next = 0;
    for (int i = first; i <= last; i++) {
        int seqnum = seqnum_of(rig_next(rig, topic, &next));
        cr_assert(seqnum == i, "expected %d, came %d", i, seqnum);
    }
}

Test(reports, tcp) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 113));
    expect_van_on_both(rig, "127.0.0.1", device);
    rig_finish(rig);
}

Test(reports, udp) {
    struct rig *rig = rig_up(NULL);
    int device = rig_udp(rig);
    device_send(device, "MT;6;" VAN ";R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113");
    expect_van_on_both(rig, "127.0.0.1", device);
    rig_finish(rig);
}

#define DUAL_STACK                                                                                           \
    "{'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','tcp':'[::]:0','udp':'[::]:0'}]}"

Test(reports, ipv6_tcp) {
    if (!rig_has_ipv6())
        cr_skip_test("no IPv6 here");
    struct rig *rig = rig_up(DUAL_STACK);
    int device = rig_tcp_at("::1", rig_tcp_port(rig, "mictrack"));
    device_send(device, report(VAN, 113));
    expect_van_on_both(rig, "[::1]", device);
    rig_finish(rig);
}

Test(reports, ipv6_udp) {
    if (!rig_has_ipv6())
        cr_skip_test("no IPv6 here");
    struct rig *rig = rig_up(DUAL_STACK);
    int device = rig_udp_at("::1", rig_udp_port(rig, "mictrack"));
    device_send(device, report(VAN, 113));
    expect_van_on_both(rig, "[::1]", device);
    rig_finish(rig);
}

Test(reports, ipv4_on_a_socket_for_both) {
    if (!rig_has_ipv6())
        cr_skip_test("no IPv6 here");
    struct rig *rig = rig_up(DUAL_STACK);
    int device = rig_tcp_to(rig, "mictrack");
    device_send(device, report(VAN, 113));
    expect_van_on_both(rig, "127.0.0.1", device);
    rig_finish(rig);
}

Test(reports, of_two_devices_are_never_mixed) {
    struct rig *rig = rig_up(NULL);
    int van = rig_tcp(rig), car = rig_tcp(rig);
    for (int i = 0; i < 50; i++) {
        const char *one = report(VAN, i), *other = report(CAR, i);
        size_t half = 3 + (size_t)i % 40;
        device_send_bytes(van, one, half);
        device_send_bytes(car, other, half / 2);
        device_send(van, one + half);
        device_send(car, other + half / 2);
    }
    expect_sequence(rig, VAN, 0, 49);
    expect_sequence(rig, CAR, 0, 49);
    rig_finish(rig);
}

Test(reports, of_two_devices_over_udp) {
    struct rig *rig = rig_up(NULL);
    int van = rig_udp(rig), car = rig_udp(rig);
    for (int i = 0; i < 50; i++) {
        device_send(van, report(VAN, i));
        device_send(car, report(CAR, i));
    }
    expect_sequence(rig, VAN, 0, 49);
    expect_sequence(rig, CAR, 0, 49);
    rig_finish(rig);
}

Test(reports, byte_by_byte) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    for (int i = 0; i < 3; i++)
        for (const char *c = report(VAN, i); *c != '\0'; c++)
            device_send_bytes(device, c, 1);
    expect_sequence(rig, VAN, 0, 2);
    rig_finish(rig);
}

// A report with this line end, which may be empty.
static const char *report_ending(int seqnum, const char *end) {
    static char text[128];
    strcpy(text, report(VAN, seqnum));
    strcpy(strchr(text, '\r'), end);
    return text;
}

static const char *unended(int seqnum) {
    return report_ending(seqnum, "");
}

Test(reports, several_in_one_write) {
    static const char *const ends[] = {"", "\n", "\r\n"};
    struct rig *rig = rig_up(NULL);
    char text[1024] = "";
    for (int i = 0; i < 6; i++)
        strcat(text, report_ending(i, ends[i % 3]));
    device_send(rig_tcp(rig), text);
    expect_sequence(rig, VAN, 0, 5);
    rig_finish(rig);
}

Test(reports, without_a_terminator_come_after_the_silence) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    for (int i = 1; i <= 3; i++) {
        char subset[48];
        device_send(device, unended(i));
        snprintf(subset, sizeof subset, "{'message.seqnum':%d}", i);
        rig_expect(rig, DEVICES, subset);
    }
    cr_assert(!device_has_bytes(device)); // it is still open
    cr_assert(rig_count(rig, DEVICES) == 3);
    rig_finish(rig);
}

Test(reports, without_a_terminator_come_when_the_connection_ends) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    device_send(device, unended(7));
    close(device);
    rig_expect(rig, DEVICES, "{'message.seqnum':7}");
    rig_expect_log(rig, "closed by the device (code 2)");
    rig_finish(rig);
}

Test(reports, of_a_half_closed_connection) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig);
    device_send(device, unended(8));
    shutdown(device, SHUT_WR);
    rig_expect(rig, DEVICES, "{'message.seqnum':8}");
    device_expect_closed(device);
    rig_finish(rig);
}

Test(reports, second_connection_of_an_ident_closes_the_first) {
    struct rig *rig = rig_up(NULL);
    int first = rig_tcp(rig), other = rig_tcp(rig);
    device_send(first, report(VAN, 1));
    device_send(other, report(CAR, 1));
    rig_expect(rig, DEVICES, "{'ident':'" VAN "'}");
    int second = rig_tcp(rig);
    device_send(second, report(VAN, 2));
    device_expect_closed(first);
    rig_expect_log(rig, "device " VAN ": connection 1: the same device connected again (code 12)");
    device_send(second, report(VAN, 3));
    device_send(other, report(CAR, 2));
    expect_sequence(rig, CAR, 1, 2);
    rig_expect(rig, DEVICES, "{'message.seqnum':3,'ident':'" VAN "'}");
    rig_finish(rig);
}

Test(reports, several_in_a_datagram) {
    struct rig *rig = rig_up(NULL);
    char text[512];
    snprintf(text, sizeof text, "%s%s%s", report(VAN, 1), report(VAN, 2), unended(3));
    device_send(rig_udp(rig), text);
    expect_sequence(rig, VAN, 1, 3);
    rig_finish(rig);
}

Test(reports, carry_the_identity_of_the_registry) {
    struct rig *rig = rig_up("{'devices':[{'ident':'" VAN "','id':42,'name':'Van 1','type_id':825}]}");
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect(rig, "message/gw/devices/42", "{'device.id':42,'device.name':'Van 1','device.type.id':825}");
    rig_expect(rig, "message/gw/channels/1/" VAN, "{'device.id':42}");
    cr_assert(rig_count(rig, ALL) == 2);
    rig_finish(rig);
}

Test(reports, on_the_channel_topic_only) {
    struct rig *rig = rig_up("{'messages':['channels']}");
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect(rig, "message/gw/channels/1/" VAN, "{'device.id':" VAN "}");
    rig_finish(rig);
    cr_assert(rig_count(rig, ALL) == 1);
}

Test(reports, on_the_device_topic_only) {
    struct rig *rig = rig_up("{'messages':['devices']}");
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect(rig, "message/gw/devices/" VAN, "{'channel.id':1}");
    rig_gateway_stop(rig);
    cr_assert(rig_count(rig, ALL) == 1);
    rig->finished = true;
}

Test(reports, under_another_prefix) {
    struct rig *rig = rig_with_broker(NULL);
    rig->topic_prefix = "flespi";
    rig_gateway_start(rig, "{'mqtt':{'topic_prefix':'flespi'}}");
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect(rig, "/flespi/message/gw/channels/1/" VAN, NULL);
    rig_expect(rig, "/flespi/message/gw/devices/" VAN, NULL);
    rig_finish(rig);
}

Test(reports, with_quality_of_service_0) {
    struct rig *rig = rig_up("{'mqtt':{'qos':0,'inflight':4}}");
    int device = rig_tcp(rig);
    for (int i = 0; i < 100; i++)
        device_send(device, report(VAN, i));
    expect_sequence(rig, VAN, 0, 99);
    rig_expect_counters(rig, "outbox: 0 messages");
    rig_finish(rig);
}

Test(reports, of_two_channels) {
    struct rig *rig =
        rig_up("{'channels':[{'id':1,'name':'one','protocol':'mictrack','tcp':'127.0.0.1:0'},"
               "{'id':7,'name':'seven','protocol':'mictrack','tcp':'127.0.0.1:0','udp':'127.0.0.1:0'}]}");
    device_send(rig_tcp_to(rig, "one"), report(VAN, 1));
    device_send(rig_tcp_to(rig, "seven"), report(CAR, 2));
    rig_expect(rig, "message/gw/channels/1/" VAN, "{'channel.id':1}");
    rig_expect(rig, "message/gw/channels/7/" CAR, "{'channel.id':7}");
    device_send(rig_udp_to(rig, "seven"), report(VAN, 3));
    rig_expect(rig, "message/gw/channels/7/" VAN, "{'channel.id':7,'message.seqnum':3}");
    rig_finish(rig);
}

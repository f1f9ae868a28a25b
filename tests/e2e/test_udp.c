// Datagrams: answers and commands leave from where the device wrote to.
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bytes.h"
#include "tests/e2e/rig.h"

TestSuite(udp, .fini = rig_clean);

#define REPORTS "message/gw/devices/+"

static struct rig *bound_to(const char *address) {
    char changes[256];
    snprintf(
        changes, sizeof changes,
        "{'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','udp':'%s:0','udp_ack':'ACK,{seq}#'}]}",
        address);
    return rig_up(changes);
}

// A device that listens to everybody and writes to one of the gateway's addresses. What it hears must come from
// there.
struct open_device {
    int socket;
    struct sockaddr_in6 gateway;
    socklen_t length;
};

static struct open_device open_device(struct rig *rig, const char *host) {
    struct open_device device = {.length = sizeof(struct sockaddr_in6)};
    struct sockaddr_in *four = (struct sockaddr_in *)&device.gateway;
    uint16_t port = htons((uint16_t)rig_udp_port(rig, "mictrack"));
    if (inet_pton(AF_INET6, host, &device.gateway.sin6_addr) == 1) {
        device.gateway.sin6_family = AF_INET6;
        device.gateway.sin6_port = port;
    } else {
        cr_assert(inet_pton(AF_INET, host, &four->sin_addr) == 1);
        four->sin_family = AF_INET;
        four->sin_port = port;
        device.length = sizeof *four;
    }
    device.socket = socket(device.gateway.sin6_family, SOCK_DGRAM, 0);
    // From ::1, so that the system has no reason of its own to answer from the same address.
    const struct sockaddr_in6 source = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    if (device.gateway.sin6_family == AF_INET6)
        cr_assert(bind(device.socket, (const struct sockaddr *)&source, sizeof source) == 0);
    return device;
}

static void write_from(const struct open_device *device, const char *text) {
    cr_assert(sendto(device->socket, text, strlen(text), 0, (const struct sockaddr *)&device->gateway,
                     device->length) == (ssize_t)strlen(text));
}

static void expect_from_there(const struct open_device *device, const char *text) {
    struct sockaddr_in6 source = {0};
    socklen_t length = sizeof source;
    char came[256] = "", host[INET6_ADDRSTRLEN] = "";
    struct pollfd poller = {.fd = device->socket, .events = POLLIN};
    cr_assert(poll(&poller, 1, RIG_DEADLINE) == 1, "the device hears nothing");
    cr_assert(recvfrom(device->socket, came, sizeof came - 1, 0, (struct sockaddr *)&source, &length) > 0);
    cr_assert_str_eq(came, text);
    if (source.sin6_family == AF_INET6)
        inet_ntop(AF_INET6, &source.sin6_addr, host, sizeof host);
    else
        inet_ntop(AF_INET, &((struct sockaddr_in *)&source)->sin_addr, host, sizeof host);
    cr_assert(length == device->length && memcmp(&source, &device->gateway, length) == 0,
              "'%s' came from %s, port %d", text, host, ntohs(source.sin6_port));
}

// An answer, and a command later.
static void expect_all_from(struct rig *rig, const char *host) {
    struct open_device device = open_device(rig, host);
    write_from(&device, report(VAN, 1));
    expect_from_there(&device, "ACK,1#");
    rig_publish(rig, "command/gw/devices/" VAN, "mode,6,60#");
    expect_from_there(&device, "mode,6,60#");
    write_from(&device, "mode=Success!");
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/+/processed", NULL);
    close(device.socket);
}

Test(udp, answers_leave_from_the_address_that_the_device_wrote_to) {
    struct rig *rig = bound_to("0.0.0.0");
    expect_all_from(rig, "127.0.0.2");
    expect_all_from(rig, "127.0.0.1");
    rig_finish(rig);
}

Test(udp, answers_leave_from_the_ipv6_address_that_the_device_wrote_to) {
    if (!rig_has_ipv6())
        cr_skip_test("no IPv6 here");
    // In a namespace of its own the loopback can have more than one address, where that is allowed.
    bool more = unshare(CLONE_NEWNET) == 0 &&
                system("ip link set lo up && ip addr add fd77::5/128 dev lo nodad") == 0;
    struct rig *rig = bound_to("[::]");
    expect_all_from(rig, "::1");
    if (more)
        expect_all_from(rig, "fd77::5");
    rig_finish(rig);
}

Test(udp, answers_to_ipv4_leave_a_socket_for_both_from_the_address_that_the_device_wrote_to) {
    if (!rig_has_ipv6())
        cr_skip_test("no IPv6 here");
    struct rig *rig = bound_to("[::]");
    expect_all_from(rig, "127.0.0.3");
    rig_finish(rig);
}

// The last datagram counts: a device that was told another address of the gateway hears from that one.
Test(udp, answers_follow_the_device_to_another_address) {
    struct rig *rig = bound_to("0.0.0.0");
    struct open_device device = open_device(rig, "127.0.0.2"), moved = open_device(rig, "127.0.0.4");
    write_from(&device, report(VAN, 1));
    expect_from_there(&device, "ACK,1#");
    close(moved.socket);
    moved.socket = device.socket;
    write_from(&moved, report(VAN, 2));
    expect_from_there(&moved, "ACK,2#");
    rig_finish(rig);
}

// A broker that takes no messages of VAN.
Test(udp, a_good_datagram_after_a_refused_one_is_acknowledged) {
    struct rig *rig = rig_new();
    char extra[160];
    snprintf(extra, sizeof extra, "acl_file %s/acl\n" RIG_BROKER_LIMITS, rig->directory);
    rig_write_file(rig, "acl",
                   "topic readwrite #\ntopic deny trackbus/message/gw/channels/1/" VAN
                   "\ntopic deny trackbus/message/gw/devices/" VAN "\nuser rig\ntopic readwrite #\n");
    rig_broker_start(rig, extra);
    rig_client_start(rig);
    rig_gateway_start(rig, "{'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','udp':"
                           "'127.0.0.1:0','udp_ack':'ACK,{seq}#'}]}");
    rig_expect_log(rig, ": connected");
    int device = rig_udp(rig);
    device_send(device, report(VAN, 1));
    rig_expect_log_times(rig, "set aside", 2);
    device_send(device, report(CAR, 2));
    device_expect_datagram(device, "ACK,2#");
    cr_assert(!rig_log_has(rig, "limit reached"));
    rig_finish(rig);
}

// Whoever forges the address of another one must not make the gateway send him more than he sends.
Test(udp, answers_are_no_longer_than_what_they_answer) {
    struct rig *rig =
        rig_up("{'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','udp':'127.0.0.1:0',"
               "'udp_ack':'{seq}{ident}{ident}{ident}{ident}{ident}{ident}{ident}{ident}'}]}");
    int device = rig_udp(rig);
    char padded[256];
    snprintf(padded, sizeof padded, "%-200s", report(VAN, 2));
    device_send(device, report(VAN, 1));
    rig_expect(rig, REPORTS, "{'message.seqnum':1}"); // and no answer
    device_send(device, padded);
    device_expect_datagram(device, "2" VAN VAN VAN VAN VAN VAN VAN VAN);
    rig_expect_log(rig, "bytes left out, because they are longer than it: 1");
    rig_finish(rig);
}

Test(udp, one_datagram_has_one_answer) {
    struct rig *rig =
        rig_up("{'channels':[{'id':2,'name':'magicyo','protocol':'magicyo','udp':'127.0.0.1:0'}]}");
    static const uint8_t data[] = {0x01, 0x03};
    uint8_t sent[8 * MAGICYO_FRAME_MAX], expected[8 * MAGICYO_FRAME_MAX], came[8 * MAGICYO_FRAME_MAX];
    size_t length = 0, answers = 0;
    for (unsigned id = 1; id <= 6; id++) { // at once, and when it is safe
        bool heartbeat = id % 2 == 0;
        length += bytes_magicyo(sent + length, LORRY, heartbeat ? 0x0C : 0x03, id, data, heartbeat ? 0 : 2);
        answers +=
            bytes_magicyo(expected + answers, LORRY, heartbeat ? 0x0D : 0x04, id, data, heartbeat ? 0 : 2);
    }
    int device = rig_udp_to(rig, "magicyo");
    device_send_bytes(device, sent, length);
    struct pollfd poller = {.fd = device, .events = POLLIN};
    cr_assert(poll(&poller, 1, RIG_DEADLINE) == 1);
    ssize_t got = recv(device, came, sizeof came, 0);
    cr_assert(got == (ssize_t)answers && memcmp(came, expected, answers) == 0, "%zd bytes", got);
    rig_finish(rig);
}

// Records are counted, not the datagrams that they come in.
Test(udp, records_of_a_datagram_count_as_datagrams) {
    struct rig *rig = rig_up("{'limits':{'datagrams_per_second':10}}");
    int device = rig_udp(rig), marker = rig_tcp(rig);
    char many[4096] = "";
    for (int i = 0; i < 20; i++)
        strcat(many, report(VAN, i));
    int64_t begun = rig_clock();
    for (int i = 0; i < 50; i++)
        device_send(device, many);
    rig_expect_count(rig, "message/gw/devices/" VAN, 20);
    device_send(marker, report(CAR, 1));
    rig_expect(rig, REPORTS, "{'ident':'" CAR "'}");
    size_t count = rig_count(rig, "message/gw/devices/" VAN);
    // Ten datagrams would be 200, and 200 more each second.
    size_t most = 60 + 10 * (size_t)((rig_clock() - begun) / 1000);
    cr_assert(count <= most, "%zu reports, at most %zu", count, most);
    rig_finish(rig);
}

// A command that went out over TCP is answered there, whoever says by a datagram that he is the device.
Test(udp, an_answer_from_elsewhere_ends_no_command) {
    struct rig *rig = rig_up(NULL);
    int device = rig_tcp(rig), stranger = rig_udp(rig);
    char forged[256];
    device_send(device, report(VAN, 1));
    rig_expect(rig, REPORTS, "{'message.seqnum':1}");
    rig_publish(rig, "command/gw/devices/" VAN, "mode,6,60#");
    device_expect(device, "mode,6,60#");
    snprintf(forged, sizeof forged, "%smode=Fail!\r\n", report(VAN, 2));
    device_send(stranger, forged);
    rig_expect_log(rig, "device " VAN ": an answer to 'mode' from 127.0.0.1:");
    device_send(device, "mode=Success!\r\n");
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/+/processed", "{'executed':true}");
    rig_finish(rig);
}

#define ENTRIES(what) "log/gw/channels/+/connections/+/" what

static struct rig *magicyo_over_udp(void) {
    return rig_up("{'channels':[{'id':2,'name':'magicyo','protocol':'magicyo','udp':'127.0.0.1:0'}]}");
}

static void say_goodbye(int lorry) {
    static const uint8_t nothing[1];
    uint8_t bytes[MAGICYO_FRAME_MAX];
    device_send_bytes(lorry, bytes, bytes_magicyo(bytes, LORRY, 0x0E, 2, nothing, 0));
}

// A device that says goodbye is gone at once; also one that says nothing else.
Test(udp, a_device_that_says_goodbye_is_gone) {
    struct rig *rig = magicyo_over_udp();
    static const uint8_t nothing[1];
    uint8_t bytes[MAGICYO_FRAME_MAX];
    int lorry = rig_udp_to(rig, "magicyo");
    device_send_bytes(lorry, bytes, bytes_magicyo(bytes, LORRY, 0x0C, 1, nothing, 0));
    rig_expect(rig, ENTRIES("identified"), "{'ident':'" LORRY "'}");
    say_goodbye(lorry);
    for (size_t i = 1; i <= 2; i++) {
        rig_expect(rig, ENTRIES("closed"), "{'close_code':2,'ident':'" LORRY "'}");
        rig_expect(rig, "log/gw/devices/" LORRY "/disconnected", NULL);
        cr_assert(rig_count(rig, ENTRIES("accepted")) == i && rig_count(rig, ENTRIES("closed")) == i);
        if (i == 1)
            say_goodbye(rig_udp_to(rig, "magicyo"));
    }
    rig_expect_standing(rig, "state/gw/devices/" LORRY "/connected", "false");
    rig_finish(rig);
}

// Whoever writes as one device from ever other ports fills neither the log nor the broker, and each beginning that is
// told has its end.
Test(udp, a_device_with_ever_other_addresses_does_not_fill_the_log) {
    struct rig *rig = bound_to("127.0.0.1");
    enum { ADDRESSES = 300 };
    for (int i = 0; i < ADDRESSES; i++) {
        int device = rig_udp(rig);
        device_send(device, report(VAN, i));
        close(device);
    }
    char subset[48];
    snprintf(subset, sizeof subset, "{'message.seqnum':%d}", ADDRESSES - 1);
    rig_expect(rig, "message/gw/devices/" VAN, subset);
    device_send(rig_udp(rig), report(CAR, 1));
    rig_expect(rig, ENTRIES("identified"), "{'ident':'" CAR "'}");
    rig_gateway_stop(rig);
    size_t begun = rig_count(rig, ENTRIES("accepted"));
    cr_assert(begun < ADDRESSES / 2, "%zu entries", begun);
    cr_assert(rig_log_count(rig, "identified") < ADDRESSES / 2);
    rig_expect_count(rig, ENTRIES("closed"), begun);
    cr_assert(rig_count(rig, ENTRIES("closed")) == begun && rig_count(rig, ENTRIES("identified")) == begun);
    rig->finished = true;
}

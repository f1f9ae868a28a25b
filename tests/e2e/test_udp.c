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

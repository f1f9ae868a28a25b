// Devices that misbehave beside devices that do not: half-open ones, very slow ones, and floods of bytes that
// make no sense.
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/faults/world.h"

TestSuite(faults_flood, .fini = rig_clean);

#define SLOW  300
#define FLOOD 20
#define CROWD 10000 // slow ones alone; as many descriptors again has the gateway

static const char *const channels[] = {"mictrack", "magicyo"};

static void random_bytes(unsigned char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++)
        bytes[i] = (unsigned char)rand();
}

// Sends until the gateway closes the connection, and connects again.
static void flood_tcp(int *device, int port) {
    unsigned char bytes[1000];
    random_bytes(bytes, sizeof bytes);
    if (send(*device, bytes, sizeof bytes, MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
        return;
    close(*device);
    *device = rig_tcp_at("127.0.0.1", port);
}

static void flood_udp(int device) {
    unsigned char bytes[1400];
    random_bytes(bytes, sizeof bytes);
    send(device, bytes, 1 + (size_t)rand() % sizeof bytes, MSG_DONTWAIT);
}

struct others {
    int tcp_port[2], udp_port[2];
    int slow[SLOW], tcp[FLOOD], udp[2];
};

static void begin(struct rig *rig, struct others *others) {
    for (int i = 0; i < 2; i++) {
        others->tcp_port[i] = rig_tcp_port(rig, channels[i]);
        others->udp_port[i] = rig_udp_port(rig, channels[i]);
        others->udp[i] = rig_udp_at("127.0.0.1", others->udp_port[i]);
    }
    for (int i = 0; i < SLOW; i++)
        others->slow[i] = rig_tcp_at("127.0.0.1", others->tcp_port[i % 2]);
    for (int i = 0; i < FLOOD; i++)
        others->tcp[i] = rig_tcp_at("127.0.0.1", others->tcp_port[i % 2]);
}

static void go_on(struct others *others, int round) {
    // A report and a frame that never end.
    static const char *const beginnings[] = {"MT;6;866425031361423;R0;10+19", "UU\1\2"
                                                                              "864867022511015\3"};
    for (int i = 0; i < FLOOD; i++)
        flood_tcp(&others->tcp[i], others->tcp_port[i % 2]);
    for (int i = 0; i < 20; i++)
        flood_udp(others->udp[i % 2]);
    for (int i = round % 10; i < SLOW; i += 10)
        send(others->slow[i], &beginnings[i % 2][round / 10 % 20], 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void end(struct others *others) {
    for (int i = 0; i < SLOW; i++)
        close(others->slow[i]);
    for (int i = 0; i < FLOOD; i++)
        close(others->tcp[i]);
    close(others->udp[0]);
    close(others->udp[1]);
}

Test(faults_flood, does_not_reach_other_devices) {
    struct rig *rig = rig_new();
    static struct others others;
    rig_broker_start(rig, NULL);
    struct world *world = world_new(
        rig, (struct world_setup){.mictrack = 10, .magicyo = 10, .udp = 4, .magicyo_udp = 4, .rate = 300});
    world_start_gateway(world, NULL);
    begin(rig, &others);
    world_send(world, true);
    int seconds = world_seconds(4);
    for (int round = 0; round < 100 || !world_is_over(world, seconds); round++) {
        go_on(&others, round);
        WORLD_EXPECT(world, received, 3);
    }
    end(&others);
    world_finish(world, "flood");
}

// --- very many ---

// Each sends one byte of a report a minute, and so never says who it is: the gateway closes them after a
// while, and they come back.
static void connect_crowd(int *crowd, const int *ports) {
    for (int i = 0; i < CROWD; i++)
        crowd[i] = rig_tcp_at("127.0.0.1", ports[i % 2]);
}

static void crowd_speaks(int *crowd, const int *ports, int round) {
    for (int i = round % 60; i < CROWD; i += 60) {
        if (send(crowd[i], "M", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1)
            continue;
        close(crowd[i]);
        crowd[i] = rig_tcp_at("127.0.0.1", ports[i % 2]);
    }
}

Test(faults_flood, thousands_of_slow_connections_do_not_reach_other_devices) {
    static int crowd[CROWD];
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < CROWD + 500)
        cr_skip_test("only %lu descriptors", (unsigned long)limit.rlim_max);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    struct rig *rig = rig_new();
    rig_broker_start(rig, NULL);
    struct world *world = world_new(
        rig, (struct world_setup){.mictrack = 10, .magicyo = 10, .udp = 4, .magicyo_udp = 4, .rate = 300});
    world_start_gateway(world, "'limits':{'connections_per_address':15000}");
    int ports[2] = {rig_tcp_port(rig, channels[0]), rig_tcp_port(rig, channels[1])};
    connect_crowd(crowd, ports);
    world_send(world, true);
    int seconds = world_seconds(0);
    for (int round = 0; round < 60 || !world_is_over(world, seconds); round++) {
        crowd_speaks(crowd, ports, round);
        WORLD_EXPECT(world, received, 20);
    }
    for (int i = 0; i < CROWD; i++)
        close(crowd[i]);
    world_finish(world, "10,000 slow connections");
}

#define TOO_MANY 150

// What is too much is closed, the others carry on, and whoever leaves makes room for another.
static void crowd_out(struct rig *rig, void (*expect)(struct rig *rig)) {
    int devices[TOO_MANY], first = rig_tcp(rig);
    device_send(first, report(VAN, 1));
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':1}");
    for (int i = 0; i < TOO_MANY; i++)
        devices[i] = rig_tcp(rig);
    device_expect_closed(devices[TOO_MANY - 1]);
    device_send(first, report(VAN, 2));
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':2}");
    if (expect != NULL)
        expect(rig);
    for (int i = 0; i < TOO_MANY; i++)
        close(devices[i]);
    rig_expect_counters(rig, "mictrack: 1 connections");
    device_send(rig_tcp(rig), report(VAN, 3));
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':3}");
    rig_finish(rig);
}

// libuv turns them away without a word.
Test(faults_flood, without_descriptors_others_go_on) {
    struct rig *rig = rig_up(NULL);
    cr_assert(prlimit(rig->gateway, RLIMIT_NOFILE, &(struct rlimit){100, 100}, NULL) == 0);
    crowd_out(rig, NULL);
}

static void expect_refusals(struct rig *rig) {
    rig_expect_log(rig, "but the system allows only 200 open files: 100 connections");
    rig_expect_log(rig, "rejected: 100 connections are open (limits.connections)");
    rig_expect_counters(rig, "over the limits: 51 connections");
}

Test(faults_flood, with_few_descriptors_connections_are_refused_before_there_are_none) {
    cr_assert(setrlimit(RLIMIT_NOFILE, &(struct rlimit){200, 200}) == 0); // which is enough for the test
    crowd_out(rig_up(NULL), expect_refusals);
}

// --- half of a connection ---

#define GONE 20

// The other end is gone without a word, as when a tracker loses its network.
static void vanish(int device) {
    int on = 1;
    if (setsockopt(device, IPPROTO_TCP, TCP_REPAIR, &on, sizeof on) != 0)
        cr_skip_test("connections cannot be left half-open here");
    close(device);
}

static const char *ident_of(int index) {
    static char ident[16];
    snprintf(ident, sizeof ident, "8664250313614%02d", index);
    return ident;
}

Test(faults_flood, half_open_connections_end) {
    struct rig *rig = rig_up("{'limits':{'idle_timeout':2}}");
    char text[96];
    int devices[GONE];
    for (int i = 0; i < GONE; i++) {
        devices[i] = rig_tcp(rig);
        device_send(devices[i], report(ident_of(i), 1));
        snprintf(text, sizeof text, "{'ident':'%s','message.seqnum':1}", ident_of(i));
        rig_expect(rig, "message/gw/devices/+", text);
    }
    rig->finished = true; // also when it is skipped
    for (int i = 0; i < GONE; i++)
        vanish(devices[i]);
    rig->finished = false;
    for (int i = 0; i < GONE / 2; i++) { // these come back
        devices[i] = rig_tcp(rig);
        device_send(devices[i], report(ident_of(i), 2));
        snprintf(text, sizeof text, "{'ident':'%s','message.seqnum':2}", ident_of(i));
        rig_expect(rig, "message/gw/devices/+", text);
    }
    for (int i = 0; i < GONE; i++) {
        bool back = i < GONE / 2;
        snprintf(text, sizeof text, "device %s: connection %d: %s", ident_of(i), i + 1,
                 back ? "the same device connected again (code 12)" : "silent for too long (code 17)");
        rig_expect_log(rig, text);
    }
    rig_finish(rig);
}

// Devices that misbehave beside devices that do not: half-open ones, very slow ones, and floods of bytes that
// make no sense.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/faults/world.h"

TestSuite(faults_flood, .fini = rig_clean);

#define SLOW  300
#define FLOOD 20

static const char *const channels[] = {"mictrack", "magicyo"};

static void random_bytes(unsigned char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++)
        bytes[i] = (unsigned char)rand();
}

// One after the other on the same place: sends until the gateway closes, and connects again.
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

// A world around the gateway that counts: devices that send numbered reports, and a proxy between the gateway
// and the broker that sees what arrives. All of it runs on one thread of its own.
//
// A report has arrived when the broker's PUBACK for it has passed the proxy. Counting with a subscriber would
// also count what a broker that is killed loses after its PUBACK, which is no fault of the gateway.
//
// Devices are of four kinds. Mictrack over TCP sends on and is never answered. Magicyo over TCP has a few
// frames under way and sends those that were not answered again, after it has connected again. Both over
// UDP send a report until it is acknowledged, and then the next.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "tests/e2e/rig.h"

struct world;

struct world_setup {
    int mictrack, magicyo, udp, magicyo_udp; // devices
    int rate;                                // reports a second, of all together
    // Mictrack devices whose topic the broker forbids: the first of all, so that their names are known. They say
    // nothing but what world_send_refused() tells them.
    int forbidden;
    int patience; // milliseconds until what is waited for must have come; 0: as usual
};

struct world_counts {
    size_t sent, acknowledged, received, lost, duplicates, out_of_order;
    size_t tcp_sent;   // of Mictrack over TCP
    size_t udp_unique; // reports sent over UDP, without repeats
    size_t udp_repeats;
    size_t own_duplicates; // of Mictrack over TCP, which never repeats anything itself
    size_t connections;    // of the gateway at the proxy
    size_t peak_memory;    // of the gateway, KiB
    size_t acknowledged_magicyo;
    size_t refused, aside; // reports that the broker must not take, and those of them found in the store
};

// What the proxy does with the gateway's connections.
struct world_faults {
    atomic_int delay;    // milliseconds between two times that bytes are passed on
    atomic_bool stalled; // nothing is passed on
    atomic_int
        refused; // that many PUBACKs for reports become refusals, each other one, with refusal as reason
    atomic_int refusal;
    atomic_int cut; // that many PUBLISHes on, one is cut in the middle and the connection with it; 0: none
    atomic_int cut_answer; // that many PUBACKs for reports on, the connection is cut before it
};

struct world *world_new(struct rig *rig, struct world_setup setup);
struct world_faults *world_faults(struct world *world);
// The configuration to start the gateway with; more (or NULL) is JSON with further keys of it.
const char *world_config(struct world *world, const char *more);

void world_send(struct world *world, bool send);
void world_rate(struct world *world, int rate);
// Sends reports that the broker does not take for good: one of each forbidden device, and so many that are too
// long for WORLD_SIZE_LIMIT, of Mictrack devices that are not forbidden. They count as lost unless they stand in
// the store in the end.
void world_send_refused(struct world *world, int too_long);
#define WORLD_SIZE_LIMIT 700 // bytes: no other report makes a message that is so long
// Lines of an access list that let everything pass but the reports of forbidden devices.
const char *world_access_list(struct world *world);
// Stops the sending and waits until the gateway has read all that was sent over TCP.
void world_pause(struct world *world);
// The system holds bytes of TCP devices that the gateway has not read.
bool world_has_unread(struct world *world);

// Stops the sending until all that was promised has arrived.
void world_drain(struct world *world);

// Kills the gateway with SIGKILL: from now on Mictrack over TCP may lose reports.
void world_kill_gateway(struct world *world);
// Ends it with SIGTERM, which must end well; nothing that it has read may be lost.
void world_stop_gateway(struct world *world);
void world_start_gateway(struct world *world, const char *more);

struct world_counts world_counts(struct world *world);
// Waits until a count has grown by so much; offset is that of the field in struct world_counts.
void world_expect_growth(struct world *world, size_t offset, size_t by, const char *what);
#define WORLD_EXPECT(world, field, by)                                                                       \
    world_expect_growth((world), offsetof(struct world_counts, field), (by), #field)

// Stops sending, waits until all has arrived, and expects that nothing was lost or out of order. Prints
// the counts.
void world_settle(struct world *world, const char *name);
void world_free(struct world *world);

// Seconds that a heavy test goes on: given by TRACKBUS_FAULTS_SECONDS, otherwise short.
int world_seconds(int without);
// Whether that time is over.
bool world_is_over(struct world *world, int seconds);

// For a gateway that has ended: what `trackbus store list` shows must be the reports that the broker must not
// take, each once. Prints the counts.
void world_expect_aside(struct world *world, const char *name);

// The end of a test: settles, stops the gateway and frees the world.
void world_finish(struct world *world, const char *name);

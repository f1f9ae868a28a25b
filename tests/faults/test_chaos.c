// The broker and the gateway are killed, frozen and cut off under load; no report may be lost. The heavy
// tests go on for TRACKBUS_FAULTS_SECONDS when that is set; see tests/faults/run.
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/faults/world.h"

TestSuite(faults, .fini = rig_clean);

#define EVERYONE                                                                                             \
    ((struct world_setup){.mictrack = 20, .magicyo = 20, .udp = 10, .magicyo_udp = 10, .rate = 1000})

// Kills may come at any moment: the number of reports that pass in between is left to chance.
static void let_pass(struct world *world, size_t most) {
    WORLD_EXPECT(world, sent, 1 + (size_t)rand() % most);
}

static struct world *start(struct rig *rig, struct world_setup setup, const char *more) {
    srand((unsigned)getpid());
    rig_broker_start(rig, NULL);
    struct world *world = world_new(rig, setup);
    world_start_gateway(world, more);
    world_send(world, true);
    WORLD_EXPECT(world, received, 20);
    return world;
}

Test(faults, the_broker_is_killed) {
    struct rig *rig = rig_new();
    struct world *world = start(rig, EVERYONE, NULL);
    int seconds = world_seconds(6);
    for (int i = 0; i < 2 || !world_is_over(world, seconds); i++) {
        rig_broker_kill(rig);
        let_pass(world, 1500);
        rig_broker_start(rig, NULL);
        WORLD_EXPECT(world, received, 500);
        let_pass(world, 500);
    }
    world_finish(world, "broker killed");
}

Test(faults, the_gateway_is_killed) {
    struct rig *rig = rig_new();
    struct world *world = start(rig, EVERYONE, NULL);
    int seconds = world_seconds(5);
    for (int i = 0; i < 3 || !world_is_over(world, seconds); i++) {
        let_pass(world, 1500);
        world_kill_gateway(world);
        world_start_gateway(world, NULL);
        WORLD_EXPECT(world, received, 100);
    }
    world_finish(world, "gateway killed");
}

// With the broker away for so long that acknowledged messages are on disk when the gateway dies.
Test(faults, both_are_killed) {
    struct rig *rig = rig_new();
    struct world *world = start(rig, EVERYONE, NULL);
    int seconds = world_seconds(8);
    for (int i = 0; i < 2 || !world_is_over(world, seconds); i++) {
        rig_broker_kill(rig);
        if (i % 2 == 0)
            WORLD_EXPECT(world, acknowledged, 300);
        let_pass(world, 300);
        world_kill_gateway(world);
        world_start_gateway(world, NULL);
        if (i % 3 == 2)
            world_kill_gateway(world);
        rig_broker_start(rig, NULL);
        if (i % 3 == 2)
            world_start_gateway(world, NULL);
        WORLD_EXPECT(world, received, 100);
    }
    world_finish(world, "both killed");
}

#define GIVES_UP_WITHIN 120000 // milliseconds

static bool was_given_up(void *context) {
    return rig_log_count(context, "retrying in") > 0;
}

// The gateway gives up a broker that says nothing for a minute: twice the keep-alive.
static void freeze_long(struct rig *rig, struct world *world) {
    rig_broker_freeze(rig);
    cr_assert(rig_wait(was_given_up, rig, GIVES_UP_WITHIN), "the gateway waits for ever");
    rig_broker_thaw(rig);
    WORLD_EXPECT(world, connections, 1);
    WORLD_EXPECT(world, received, 500);
}

Test(faults, the_broker_is_frozen) {
    struct rig *rig = rig_new();
    struct world *world = start(rig, EVERYONE, NULL);
    int seconds = world_seconds(0);
    if (seconds >= 100)
        freeze_long(rig, world);
    do {
        rig_broker_freeze(rig);
        rig_expect_log(rig, "writing them to disk");
        WORLD_EXPECT(world, acknowledged_magicyo, 500);
        WORLD_EXPECT(world, udp_unique, 50);
        rig_broker_thaw(rig);
        rig_expect_log(rig, "the broker is keeping up again"); // while messages come all the time
        WORLD_EXPECT(world, received, 500);
        // Again, while some that were read back may still stand in front of new ones.
        rig_broker_freeze(rig);
        WORLD_EXPECT(world, acknowledged_magicyo, 500);
        rig_broker_thaw(rig);
        WORLD_EXPECT(world, received, 500);
    } while (!world_is_over(world, seconds));
    world_finish(world, "broker frozen");
}

// What was read back from the disk, and a slow broker has yet to take, stands in front of new messages: these
// are written all the same, and acknowledged.
Test(faults, new_messages_are_acknowledged_behind_what_was_read_back) {
    struct rig *rig = rig_new();
    struct world *world = start(
        rig, (struct world_setup){.mictrack = 10, .magicyo = 10, .udp = 4, .magicyo_udp = 4, .rate = 2000},
        NULL);
    rig_broker_kill(rig);
    WORLD_EXPECT(world, sent, 3800);
    world_pause(world);
    world_faults(world)->delay = 1000; // so that all this would take half a minute
    rig_broker_start(rig, NULL);
    WORLD_EXPECT(world, received, 300);
    world_faults(world)->stalled = true;
    world_rate(world, 100);
    world_send(world, true);
    WORLD_EXPECT(world, acknowledged_magicyo, 20);
    world_faults(world)->delay = 0;
    world_faults(world)->stalled = false;
    rig_expect_log(rig, "the broker is keeping up again");
    world_finish(world, "behind what was read back");
}

// Spilled, read back in part, spilled again, with a restart in the middle: without gaps and in order.
Test(faults, spilled_drained_and_spilled_again) {
    struct rig *rig = rig_new();
    struct world *world = start(
        rig, (struct world_setup){.mictrack = 10, .magicyo = 10, .udp = 4, .magicyo_udp = 4, .rate = 3000},
        NULL);
    int seconds = world_seconds(0);
    do {
        rig_broker_kill(rig);
        WORLD_EXPECT(world, sent, 4000);
        WORLD_EXPECT(world, acknowledged_magicyo, 500); // so they are on disk
        rig_broker_start(rig, NULL);
        WORLD_EXPECT(world, received, 300);
        rig_broker_kill(rig);
        world_send(world, true);
        WORLD_EXPECT(world, sent, 1000);
        world_kill_gateway(world);
        world_start_gateway(world, NULL);
        WORLD_EXPECT(world, sent, 1000);
        rig_broker_start(rig, NULL);
        WORLD_EXPECT(world, received, 3000);
    } while (!world_is_over(world, seconds));
    world_finish(world, "spilled and drained");
}

// --- the connection between them ---

Test(faults, the_connection_is_cut_in_the_middle_of_a_publish) {
    struct rig *rig = rig_new();
    struct world *world = start(rig, EVERYONE, NULL);
    struct world_faults *faults = world_faults(world);
    int seconds = world_seconds(0), i = 0;
    do {
        faults->cut = 1 + rand() % 300;
        WORLD_EXPECT(world, connections, 1);
        WORLD_EXPECT(world, received, 200);
    } while (++i < 3 || !world_is_over(world, seconds));
    world_finish(world, "connection cut");
}

Test(faults, the_connection_is_slow_and_stalls) {
    struct rig *rig = rig_new();
    struct world *world = start(rig, EVERYONE, NULL);
    struct world_faults *faults = world_faults(world);
    int seconds = world_seconds(0);
    do {
        faults->delay = 100;
        WORLD_EXPECT(world, received, 500);
        faults->stalled = true;
        WORLD_EXPECT(world, acknowledged_magicyo, 500);
        faults->stalled = false;
        WORLD_EXPECT(world, received, 500);
        faults->delay = 0;
        faults->stalled = true;
        WORLD_EXPECT(world, sent, 1000);
        faults->cut = 1;
        faults->stalled = false;
        WORLD_EXPECT(world, connections, 1);
    } while (!world_is_over(world, seconds));
    world_finish(world, "connection slow and stalled");
}

// --- refusals ---

#define QUOTA_EXCEEDED 0x97
#define NOT_AUTHORIZED 0x87

struct refusals {
    struct world_faults *faults;
};

static bool are_over(void *context) {
    const struct refusals *refusals = context;
    return refusals->faults->refused == 0;
}

static void refuse(struct world *world, int refusal, int count) {
    struct refusals refusals = {world_faults(world)};
    refusals.faults->refusal = refusal;
    refusals.faults->refused = count;
    cr_assert(rig_wait(are_over, &refusals, RIG_DEADLINE), "nothing is published");
}

Test(faults, the_broker_refuses_for_now) {
    struct rig *rig = rig_new();
    struct world *world = start(rig, EVERYONE, NULL);
    int seconds = world_seconds(0), i = 0;
    do {
        refuse(world, QUOTA_EXCEEDED, 1 + rand() % 50);
        WORLD_EXPECT(world, received, 500);
    } while (++i < 3 || !world_is_over(world, seconds));
    cr_assert(!rig_log_has(rig, "the broker rejected it"));
    world_finish(world, "refused for now");
}

// What is refused for good is lost, and so not acknowledged: devices send it again.
Test(faults, the_broker_refuses_for_good) {
    struct rig *rig = rig_new();
    struct world *world =
        start(rig, (struct world_setup){.magicyo = 20, .udp = 10, .magicyo_udp = 10, .rate = 500}, NULL);
    int seconds = world_seconds(0), i = 0;
    do {
        refuse(world, NOT_AUTHORIZED, 1 + rand() % 20);
        WORLD_EXPECT(world, received, 500);
    } while (++i < 3 || !world_is_over(world, seconds));
    rig_expect_log(rig, "set aside, the broker rejected it: Not authorized");
    world_finish(world, "refused for good");
}

// --- the end ---

// What was read before SIGTERM waits on disk for the next start.
Test(faults, stopped_while_the_broker_is_away) {
    struct rig *rig = rig_new();
    struct world *world = start(
        rig, (struct world_setup){.mictrack = 10, .magicyo = 10, .udp = 4, .magicyo_udp = 4, .rate = 1000},
        NULL);
    int seconds = world_seconds(0), i = 0;
    do {
        rig_broker_kill(rig);
        if (i % 2 == 1)
            WORLD_EXPECT(world, acknowledged_magicyo, 200); // so they are on disk
        let_pass(world, 1000);
        world_pause(world);
        world_stop_gateway(world);
        world_start_gateway(world, NULL);
        world_send(world, true);
        let_pass(world, 500);
        rig_broker_start(rig, NULL);
        WORLD_EXPECT(world, received, 500);
    } while (++i < 2 || !world_is_over(world, seconds));
    world_finish(world, "stopped");
}

// Brokers that refuse messages and end connections, under load. What they do not take for good must stand in the
// store, and nothing else may; all the rest arrives. The tests go on for TRACKBUS_FAULTS_SECONDS when that is
// set; see tests/faults/run.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/e2e/scripted_broker.h"
#include "tests/faults/world.h"

TestSuite(faults_brokers, .fini = rig_clean);

#define PATIENCE 60000 // milliseconds: a broker that closes costs some pauses before the next connection

#define MANY                                                                                                 \
    ((struct world_setup){.forbidden = 1,                                                                    \
                          .mictrack = 20,                                                                    \
                          .magicyo = 20,                                                                     \
                          .udp = 10,                                                                         \
                          .magicyo_udp = 10,                                                                 \
                          .rate = 500,                                                                       \
                          .patience = PATIENCE})

static void begin(struct world *world) {
    srand((unsigned)getpid());
    world_start_gateway(world, NULL);
    world_send(world, true);
    WORLD_EXPECT(world, received, 100);
}

static void finish(struct world *world, const char *name) {
    world_settle(world, name);
    world_stop_gateway(world);
    world_expect_aside(world, name);
    world_free(world);
}

// --- a real one that forbids topics, limits the size, and is killed ---

// Lines for a Mosquitto that forbids some topics and long messages.
static const char *refusing_lines(struct rig *rig, struct world *world, const char *queue) {
    static char lines[300];
    rig_write_file(rig, "acl", world_access_list(world));
    snprintf(lines, sizeof lines, "%smessage_size_limit %d\nacl_file %s/acl\n", queue, WORLD_SIZE_LIMIT,
             rig->directory);
    return lines;
}

static void kill_broker(struct rig *rig, struct world *world, const char *lines) {
    rig_broker_kill(rig);
    WORLD_EXPECT(world, sent, 1 + (size_t)rand() % 500);
    rig_broker_start(rig, lines);
    WORLD_EXPECT(world, received, 200);
}

static void play_mosquitto(const char *queue, const char *name) {
    struct rig *rig = rig_new();
    struct world *world = world_new(rig, MANY);
    const char *lines = refusing_lines(rig, world, queue);
    int seconds = world_seconds(0);
    rig_broker_start(rig, lines);
    begin(world);
    do {
        world_send_refused(world, 1);
        WORLD_EXPECT(world, received, 500);
        world_send_refused(world, 1);
        kill_broker(rig, world, lines);
    } while (!world_is_over(world, seconds));
    finish(world, name);
    rig->finished = true;
}

// Mosquitto 2.0 closes the connection then at each message that it refuses.
Test(faults_brokers, mosquitto_closes_at_what_it_refuses) {
    play_mosquitto("max_queued_messages 0\n", "Mosquitto closes");
}

Test(faults_brokers, mosquitto_refuses_and_is_killed) {
    play_mosquitto("max_queued_messages 1000\n", "Mosquitto refuses");
}

// --- a scripted one that ends connections ---

struct scripted {
    struct rig *rig;
    struct scripted_broker *broker;
    struct world *world;
};

static struct scripted begin_scripted(void) {
    struct world_setup setup = MANY;
    struct scripted set = {.rig = rig_new()};
    setup.forbidden = 0;
    set.broker = scripted_broker_start(set.rig);
    set.world = world_new(set.rig, setup);
    begin(set.world);
    return set;
}

static void finish_scripted(struct scripted *set, const char *name) {
    finish(set->world, name);
    scripted_broker_finish(set->broker);
}

// Once, at one of the next publishes.
static void end_at_random_publish(struct scripted *set, struct scripted_rule rule) {
    rule.on = SCRIPTED_PUBLISH;
    rule.from = 1 + (unsigned)rand() % 300;
    rule.times = 1;
    int number = scripted_broker_set(set->broker, rule);
    scripted_expect_hits(set->broker, number, 1);
    scripted_broker_unset(set->broker, number);
    WORLD_EXPECT(set->world, received, 100);
    scripted_broker_forget_past(set->broker);
}

// Before or after PUBACK, with DISCONNECT or without.
Test(faults_brokers, the_broker_ends_connections_at_random_publishes) {
    static const struct scripted_rule ways[] = {
        {.answer = SCRIPTED_CLOSES},
        {.answer = SCRIPTED_CLOSES, .taken = true},
        {.answer = SCRIPTED_CLOSES_AFTER},
        {.disconnect = 0x8B},
        {.disconnect = 0x98, .answer = SCRIPTED_CLOSES_AFTER},
    };
    struct scripted set = begin_scripted();
    int seconds = world_seconds(0);
    do {
        for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
            end_at_random_publish(&set, ways[i]);
    } while (!world_is_over(set.world, seconds));
    finish_scripted(&set, "connections ended");
}

#define ALLOWED         250 // reports a second
#define COMPLAINTS_MOST 8 // until 1,500 have come: each costs a connection, and copies of what was under way

// More than so many reports a second end the connection: the gateway slows down.
Test(faults_brokers, the_broker_allows_so_many_messages_a_second) {
    struct scripted set = begin_scripted();
    int seconds = world_seconds(0), i = 0;
    do {
        int rule =
            scripted_broker_set(set.broker, (struct scripted_rule){.on = SCRIPTED_PUBLISH,
                                                                   .topic = "trackbus/message/#",
                                                                   .rate = ALLOWED,
                                                                   .disconnect = i++ % 2 ? 0x97 : 0x96});
        scripted_expect_hits(set.broker, rule, 1);
        WORLD_EXPECT(set.world, received, 1500);
        unsigned complaints = scripted_broker_hits(set.broker, rule);
        cr_expect(complaints <= COMPLAINTS_MOST, "the broker complained %u times", complaints);
        scripted_broker_unset(set.broker, rule);
        world_drain(set.world);
        scripted_broker_forget_past(set.broker);
    } while (!world_is_over(set.world, seconds));
    finish_scripted(&set, "messages a second");
}

// Reports flow while subscriptions are refused for now.
Test(faults_brokers, the_broker_refuses_subscriptions_for_now) {
    static const uint8_t reasons[] = {0x80, 0x91, 0x97};
    struct scripted set = begin_scripted();
    int seconds = world_seconds(0), i = 0;
    do {
        int rule = scripted_broker_set(
            set.broker, (struct scripted_rule){.on = SCRIPTED_SUBSCRIBE, .reason = reasons[i++ % 3]});
        world_faults(set.world)->cut = 1 + rand() % 100;
        scripted_expect_hits(set.broker, rule, 1);
        WORLD_EXPECT(set.world, received, 300);
        scripted_broker_unset(set.broker, rule);
        WORLD_EXPECT(set.world, received, 300);
        scripted_broker_forget_past(set.broker);
    } while (!world_is_over(set.world, seconds));
    finish_scripted(&set, "subscriptions refused");
}

// --- a network that breaks ---

// Before the first answer to a report on each connection, six times in a row. No broker refuses anything, so nothing
// is set aside.
Test(faults_brokers, the_network_breaks_again_and_again) {
    struct scripted set = begin_scripted();
    int seconds = world_seconds(0);
    do {
        for (int i = 0; i < 6; i++) {
            world_faults(set.world)->cut_answer = 1;
            WORLD_EXPECT(set.world, connections, 1);
        }
        WORLD_EXPECT(set.world, received, 500);
        scripted_broker_forget_past(set.broker);
    } while (!world_is_over(set.world, seconds));
    finish_scripted(&set, "network breaks");
}

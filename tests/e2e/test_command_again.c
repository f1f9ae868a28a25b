// A command that a broker delivers again is taken in once; two that are the same because somebody wants them
// twice are two.
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tests/e2e/command_life.h"
#include "tests/e2e/scripted_broker.h"

TestSuite(command_again, .fini = rig_clean, .timeout = 200);

#define WHERE       "where?"
#define LEFT_OUT    "delivered again by the broker, left out"
#define QUEUED      "log/gw/devices/" VAN "/commands-queue/custom/queued"
#define COMMANDS_OF "trackbus/command/gw/#"

static struct scripted_broker *up(struct rig *rig) {
    struct scripted_broker *broker = scripted_broker_start(rig);
    rig_client_start(rig);
    rig_gateway_start(rig, NULL);
    rig_expect_state(rig);
    return broker;
}

// Waits until the broker's marker says that the gateway's commands have come to it.
static void expect_marked(struct rig *rig, int64_t id) {
    char subset[64];
    snprintf(subset, sizeof subset, "{'through':%lld}", (long long)id);
    rig_expect(rig, INSTANCE "/queue", subset);
}

// As it was at the snapshot.
static void fall_back(struct scripted_broker *broker) {
    scripted_broker_stop(broker);
    scripted_broker_restart(broker, SCRIPTED_SNAPSHOT | SCRIPTED_RETAINED | SCRIPTED_SESSIONS);
}

static int64_t expect_queued(struct rig *rig) {
    return expect_step(rig, VAN, "custom", "queued", NULL);
}

static void expect_reconnected(struct rig *rig, size_t times) {
    rig_expect_log_times(rig, ": connected", times);
}

// The roll call is over, for which it is asked for its marker.
static void expect_settled(struct rig *rig, size_t markers) {
    rig_expect_count(rig, INSTANCE "/queue", markers);
}

// What comes now is behind all that was delivered again.
static void expect_nothing_but(struct rig *rig, size_t queued) {
    rig_publish(rig, TO_VAN, "rconf,1#");
    rig_expect(rig, QUEUED, "{'properties':{'payload':'rconf,1#'}}");
    cr_assert(rig_count(rig, QUEUED) == queued + 1, "%zu were taken in, expected %zu",
              rig_count(rig, QUEUED) - 1, queued);
}

// It answers to them, and keeps none.
static int forget_markers(struct scripted_broker *broker) {
    return scripted_broker_set(
        broker,
        (struct scripted_rule){.on = SCRIPTED_PUBLISH, .topic = "trackbus/" INSTANCE "/queue", .drop = true});
}

// The broker has forgotten what came to it last: our acknowledgement, and the marker behind it.
Test(command_again, with_dup_is_taken_in_once) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = up(rig);
    int forgotten = forget_markers(broker);
    int rule = scripted_broker_set(
        broker, (struct scripted_rule){
                    .on = SCRIPTED_PUBLISH, .topic = COMMANDS_OF, .containing = WHERE, .again = true});
    rig_publish(rig, TO_VAN, WHERE);
    expect_queued(rig);
    scripted_expect_hits(broker, rule, 1);
    scripted_expect_hits(broker, forgotten, 1);
    scripted_broker_unset(broker, rule);
    scripted_broker_unset(broker, forgotten);
    size_t markers = rig_count(rig, INSTANCE "/queue");
    scripted_broker_disconnect(broker, "trackbus", 0);
    rig_expect_log(rig, LEFT_OUT);
    expect_settled(rig, markers + 1);
    expect_nothing_but(rig, 1);
    scripted_broker_finish(broker);
}

// Its memory is older than the acknowledgement: it delivers as if for the first time.
Test(command_again, by_a_broker_that_fell_back_is_taken_in_once) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = up(rig);
    rig_gateway_stop(rig);
    rig_publish(rig, TO_VAN, WHERE);
    rig_publish(rig, TO_VAN, WHERE); // both are meant
    rig_publish(rig, TO_VAN, "[{\"name\":\"rconf\"},{\"name\":\"where?\"}]");
    scripted_broker_snapshot(broker);
    rig_gateway_start(rig, NULL);
    expect_queued(rig);
    expect_queued(rig);
    expect_marked(rig, expect_step(rig, VAN, "where?", "queued", NULL));
    fall_back(broker);
    rig_expect_log_times(rig, LEFT_OUT, 3);
    expect_nothing_but(rig, 2);
    expect_steps(rig, VAN, "queued", 5);
    int device = wake(rig, VAN);
    device_expect(device, WHERE);
    scripted_broker_finish(broker);
}

Test(command_again, after_the_gateway_was_killed_too_is_taken_in_once) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = up(rig);
    rig_gateway_stop(rig);
    rig_publish(rig, TO_VAN, WHERE);
    scripted_broker_snapshot(broker);
    rig_gateway_start(rig, NULL);
    expect_marked(rig, expect_queued(rig));
    int device = wake(rig, VAN); // it ends: what stands on disk of it is little more than its id
    device_expect(device, WHERE);
    talk(rig, device, VAN);
    expect_step(rig, VAN, "custom", "processed", "{'executed':true}");
    check_lives(rig, false);
    rig_gateway_kill(rig);
    fall_back(broker);
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, LEFT_OUT);
    expect_nothing_but(rig, 1);
    scripted_broker_finish(broker);
}

// The broker has the marker behind our acknowledgement, and not that.
static int deliver_again(struct scripted_broker *broker, const char *text) {
    return scripted_broker_set(
        broker, (struct scripted_rule){
                    .on = SCRIPTED_PUBLISH, .topic = COMMANDS_OF, .containing = text, .again = true});
}

static void reconnect(struct rig *rig, struct scripted_broker *broker, int rule) {
    scripted_expect_hits(broker, rule, 1);
    scripted_broker_unset(broker, rule);
    expect_handed_over(rig);
    scripted_broker_disconnect(broker, "trackbus", 0);
}

Test(command_again, that_must_not_happen_twice_is_taken_in_once_after_it_has_ended) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = up(rig);
    int rule = deliver_again(broker, "reboot,0#"), device = wake(rig, VAN);
    rig_publish(rig, TO_VAN, "reboot,0#");
    expect_marked(rig, expect_queued(rig));
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!\r\n");
    expect_step(rig, VAN, "custom", "processed", "{'executed':true}");
    reconnect(rig, broker, rule);
    rig_expect_log(rig, LEFT_OUT);
    expect_nothing_but(rig, 1);
    scripted_broker_finish(broker);
}

Test(command_again, that_must_not_happen_twice_is_taken_in_once) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = up(rig);
    int rule = deliver_again(broker, "reboot,0#");
    rig_publish(rig, TO_VAN, "reboot,0#");
    expect_marked(rig, expect_queued(rig));
    reconnect(rig, broker, rule);
    rig_expect_log(rig, LEFT_OUT);
    expect_nothing_but(rig, 1);
    scripted_broker_finish(broker);
}

// --- meant twice ---

Test(command_again, that_is_meant_twice_runs_twice) {
    struct rig *rig = rig_up(NULL);
    int device = wake(rig, VAN);
    for (int i = 0; i < 2; i++) {
        rig_publish(rig, TO_VAN, WHERE);
        device_expect(device, WHERE);
        talk(rig, device, VAN);
        expect_step(rig, VAN, "custom", "processed", "{'executed':true}");
    }
    expect_steps(rig, VAN, "sent", 2);
    finish(rig);
}

// The same again while the gateway is away, or just after a broken connection: the broker remembers that it was
// acknowledged the first time.
Test(command_again, that_is_meant_again_after_a_restart_runs_again) {
    struct rig *rig = rig_up(NULL);
    rig_publish(rig, TO_VAN, WHERE);
    expect_marked(rig, expect_queued(rig));
    expect_handed_over(rig);
    rig_gateway_stop(rig);
    rig_publish(rig, TO_VAN, WHERE);
    rig_gateway_start(rig, NULL);
    rig_publish(rig, TO_VAN, WHERE);
    expect_queued(rig);
    expect_queued(rig);
    cr_assert(!rig_log_has(rig, LEFT_OUT));
    int device = wake(rig, VAN);
    for (int i = 0; i < 3; i++) {
        device_expect(device, WHERE);
        talk(rig, device, VAN);
        expect_step(rig, VAN, "custom", "processed", "{'executed':true}");
    }
    finish(rig);
}

Test(command_again, that_is_meant_again_after_a_broken_connection_runs_again) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = up(rig);
    rig_publish(rig, TO_VAN, WHERE);
    expect_marked(rig, expect_queued(rig));
    scripted_broker_disconnect(broker, "trackbus", 0);
    rig_publish(rig, TO_VAN, WHERE);
    expect_queued(rig);
    expect_reconnected(rig, 2);
    scripted_broker_finish(broker);
}

// The broker has sent the second one, with a packet id of its own, to a gateway that never read it.
Test(command_again, that_is_meant_again_and_came_to_nobody_runs_again) {
    struct rig *rig = rig_up(NULL);
    rig_publish(rig, TO_VAN, WHERE);
    expect_queued(rig);
    rig_gateway_signal(rig, SIGSTOP);
    rig_publish(rig, TO_VAN, WHERE);
    rig_gateway_kill(rig);
    rig_gateway_start(rig, NULL);
    expect_queued(rig);
    expect_steps(rig, VAN, "queued", 2);
    cr_assert(!rig_log_has(rig, LEFT_OUT));
    rig_finish(rig);
}

// A broker that gives a packet id anew after its acknowledgement.
Test(command_again, that_is_meant_again_with_the_same_packet_id_runs_again) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = up(rig);
    int rule = scripted_broker_set(
        broker, (struct scripted_rule){
                    .on = SCRIPTED_PUBLISH, .topic = COMMANDS_OF, .containing = WHERE, .again = true});
    rig_publish(rig, TO_VAN, WHERE);
    expect_marked(rig, expect_queued(rig));
    scripted_expect_hits(broker, rule, 1);
    scripted_broker_unset(broker, rule);
    scripted_broker_disconnect(broker, "trackbus", 0);
    expect_queued(rig);
    cr_assert(!rig_log_has(rig, LEFT_OUT));
    scripted_broker_finish(broker);
}

// A broker whose packet ids have gone round since the first time.
Test(command_again, that_is_meant_again_after_it_has_ended_runs_again) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = up(rig);
    int rule = deliver_again(broker, WHERE), device = wake(rig, VAN);
    rig_publish(rig, TO_VAN, WHERE);
    expect_marked(rig, expect_queued(rig));
    device_expect(device, WHERE);
    talk(rig, device, VAN);
    expect_step(rig, VAN, "custom", "processed", "{'executed':true}");
    reconnect(rig, broker, rule);
    device_expect(device, WHERE);
    talk(rig, device, VAN);
    expect_step(rig, VAN, "custom", "processed", "{'executed':true}");
    cr_assert(!rig_log_has(rig, LEFT_OUT));
    scripted_broker_finish(broker);
}

// What the broker delivers again is on disk while it waits for the verdict.
Test(command_again, is_not_lost_by_a_gateway_that_is_killed_before_it_knows) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = up(rig);
    int rule = scripted_broker_set(
        broker, (struct scripted_rule){
                    .on = SCRIPTED_PUBLISH, .topic = COMMANDS_OF, .containing = WHERE, .again = true});
    rig_publish(rig, TO_VAN, WHERE);
    expect_marked(rig, expect_queued(rig));
    scripted_expect_hits(broker, rule, 1);
    scripted_broker_unset(broker, rule);
    int slow = scripted_broker_set(
        broker,
        (struct scripted_rule){.on = SCRIPTED_PUBLISH, .topic = "trackbus/" INSTANCE "/sync", .drop = true});
    scripted_broker_disconnect(broker, "trackbus", 0);
    scripted_expect_hits(broker, slow, 1); // it was acknowledged before
    rig_gateway_kill(rig);
    scripted_broker_unset(broker, slow);
    rig_gateway_start(rig, NULL);
    expect_queued(rig);
    scripted_broker_finish(broker);
}

// Its own connection broke with the marker unanswered, and a broker that is slow to tell what it retains told it that.
static struct scripted_broker *break_at_marker(struct rig *rig) {
    struct scripted_broker *broker = up(rig);
    rig_gateway_stop(rig);
    rig_publish(rig, TO_VAN, WHERE);
    scripted_broker_snapshot(broker);
    int unanswered = scripted_broker_set(
        broker, (struct scripted_rule){
                    .on = SCRIPTED_PUBLISH, .topic = "trackbus/" INSTANCE "/queue", .delay = 60000});
    rig_gateway_start(rig, NULL);
    expect_queued(rig);
    scripted_expect_hits(broker, unanswered, 1);
    scripted_broker_unset(broker, unanswered);
    scripted_broker_set(broker, (struct scripted_rule){.on = SCRIPTED_SUBSCRIBE,
                                                       .client = "trackbus",
                                                       .topic = "trackbus/" INSTANCE "/#",
                                                       .retained_delay = 700});
    return broker;
}

Test(command_again, by_a_broker_that_fell_back_while_the_marker_was_under_way_is_taken_in_once) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = break_at_marker(rig);
    fall_back(broker);
    rig_expect_log(rig, LEFT_OUT);
    expect_nothing_but(rig, 1);
    scripted_broker_finish(broker);
}

// Of what the broker has lost, nobody has canceled anything.
static void expect_to_wait(struct rig *rig, struct scripted_broker *broker) {
    scripted_broker_stop(broker);
    scripted_broker_restart(broker, SCRIPTED_FORGETS);
    rig_expect_log(rig, "missing at the broker, publishing again");
    int device = wake(rig, VAN);
    device_expect(device, WHERE);
    scripted_broker_finish(broker);
}

Test(command_again, lost_by_the_broker_while_the_marker_was_under_way_waits) {
    struct rig *rig = rig_new();
    expect_to_wait(rig, break_at_marker(rig));
}

// The second one waits for the first.
Test(command_again, lost_by_the_broker_while_two_markers_were_under_way_waits) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = break_at_marker(rig);
    rig_publish(rig, TO_CAR, "rconf,3#");
    expect_step(rig, CAR, "custom", "queued", NULL);
    expect_to_wait(rig, broker);
}

// The marker of what came just before never reached the broker: it can't say whether this is meant again, and rather runs
// twice than not at all.
Test(command_again, after_a_gateway_that_was_killed_before_its_marker_runs_again) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = up(rig);
    rig_publish(rig, TO_VAN, "rconf,0#");
    expect_marked(rig, expect_queued(rig));
    int forgotten = forget_markers(broker);
    int rule = deliver_again(broker, WHERE);
    rig_publish(rig, TO_VAN, WHERE);
    expect_queued(rig);
    scripted_expect_hits(broker, rule, 1);
    scripted_broker_unset(broker, rule);
    rig_gateway_kill(rig);
    rig_gateway_start(rig, NULL);
    expect_queued(rig);
    expect_steps(rig, VAN, "queued", 3);
    cr_assert(!rig_log_has(rig, LEFT_OUT));
    scripted_broker_unset(broker, forgotten);
    scripted_broker_finish(broker);
}

// --- a real broker that is killed ---

#define COMMANDS 100
#define KEEPS    "persistence true\nmax_queued_messages 100000\n"

static const char *text_of(int number) {
    static char text[32];
    snprintf(text, sizeof text, "mode,7,%04d#", number);
    return text;
}

static bool is_saved(void *context) {
    static char bytes[1 << 20];
    const struct rig *rig = context;
    char path[128];
    kill(rig->broker, SIGUSR1); // it saves
    snprintf(path, sizeof path, "%s/mosquitto.db", rig->directory);
    FILE *file = fopen(path, "r");
    size_t length = file != NULL ? fread(bytes, 1, sizeof bytes, file) : 0;
    if (file != NULL)
        fclose(file);
    return memmem(bytes, length, WHERE, strlen(WHERE)) != NULL;
}

static void execute(int device, int from, int to) {
    for (int number = from; number < to; number++) {
        device_expect(device, text_of(number));
        device_send(device, "mode=Success!\r\n");
    }
}

// What it saves is from before the gateway took them: after its restart it delivers them all again, while more
// come in.
Test(command_again, of_a_broker_that_is_killed_run_once) {
    struct rig *rig = rig_with_broker(KEEPS);
    rig_gateway_start(rig, NULL);
    rig_expect_state(rig);
    rig_gateway_stop(rig);
    for (int number = 0; number < COMMANDS; number++)
        rig_publish_soon(rig, TO_VAN, text_of(number));
    rig_publish(rig, TO_CAR, WHERE);
    cr_assert(rig_wait(is_saved, rig, RIG_DEADLINE), "the broker has not saved what waits");
    rig_gateway_start(rig, NULL);
    int device = wake(rig, VAN);
    execute(device, 0, COMMANDS / 2); // the others wait
    expect_handed_over(rig);
    size_t said = rig_count(rig, INSTANCE);
    rig_broker_kill(rig);
    rig_broker_start(rig, KEEPS);
    rig_expect_count(rig, INSTANCE, said + 1); // otherwise the rig's own client publishes twice
    rig_publish(rig, TO_VAN, text_of(COMMANDS));
    rig_expect_log_times(rig, LEFT_OUT, COMMANDS + 1);
    execute(device, COMMANDS / 2, COMMANDS + 1);
    rig_publish(rig, TO_VAN, text_of(0)); // this one is meant
    execute(device, 0, 1);
    rig_expect_count(rig, "log/gw/devices/" VAN "/commands-queue/custom/processed", COMMANDS + 2);
    rig_finish(rig);
    device_expect_no_more(device);
}

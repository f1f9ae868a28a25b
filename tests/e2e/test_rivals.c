// Gateways that get in each other's way: two with one client_id, two that both take commands in.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/e2e/rig.h"
#include "tests/e2e/scripted_broker.h"

TestSuite(rivals, .fini = rig_clean, .timeout = 180);

#define GATEWAY    "trackbus"
#define OWN        "trackbus/state/gw/instances/trackbus"
#define SAME_ID    "another client uses the id 'trackbus'"
#define FIGHT_TIME 60000 // milliseconds in which two rivals must have become slow

// --- one client_id ---

// The longest pause between two attempts, in seconds.
static double longest_pause(const struct rig *rig) {
    static const char said[] = "retrying in ";
    char line[1024];
    double longest = 0;
    FILE *file = fopen(rig->log_path, "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *pause = strstr(line, said);
        double seconds = pause != NULL ? strtod(pause + strlen(said), NULL) : 0;
        longest = seconds > longest ? seconds : longest;
    }
    if (file != NULL)
        fclose(file);
    return longest;
}

// After an outage it would be 5 s at most.
static bool has_become_slow(void *context) {
    return longest_pause(context) > 5;
}

static void two_with_one_id(const char *changes) {
    struct rig *rig = rig_with_broker(NULL), *other = rig_beside(rig);
    rig_gateway_start(rig, changes);
    rig_expect_log(rig, ": connected");
    rig_gateway_start(other, changes);
    cr_assert(rig_wait(has_become_slow, rig, FIGHT_TIME));
    cr_assert(rig_wait(has_become_slow, other, FIGHT_TIME));
    rig_expect_log(rig, SAME_ID);
    rig_expect_log(other, SAME_ID);
    cr_assert_leq(rig_log_count(rig, ": connected") + rig_log_count(other, ": connected"), 14);
    rig_finish(rig);
}

Test(rivals, two_gateways_with_one_id_stop_fighting) {
    two_with_one_id(NULL);
}

Test(rivals, two_gateways_with_one_id_stop_fighting_with_3_1_1) {
    two_with_one_id("{'mqtt':{'version':'3.1.1'}}");
}

// What came before is from an earlier run.
static void expect_settled(struct rig *rig) {
    json_decref(rig_expect_standing_json(rig, "state/gw/instances/trackbus/queue", "{'through':1}"));
}

// A broker that lets both in, or another client that speaks in our name.
Test(rivals, one_that_speaks_in_our_name_is_named_once) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    rig_client_start(rig);
    rig_gateway_start(rig, NULL);
    expect_settled(rig);
    for (int i = 0; i < 3; i++)
        scripted_broker_publish(broker, OWN, "{\"state\":\"online\",\"started\":1}", true);
    rig_expect_log(rig, SAME_ID);
    scripted_broker_publish(broker, "trackbus/command/gw/devices/none", "x", false);
    rig_expect_log(rig, "command rejected"); // it has heard what came before
    cr_assert_eq(rig_log_count(rig, SAME_ID), 1);
    scripted_broker_finish(broker);
}

// What an earlier run left behind is no rival, and neither is a broker that falls back to it.
Test(rivals, earlier_run_is_no_rival) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    rig_client_start(rig);
    rig_gateway_start(rig, NULL);
    rig_expect_state(rig);
    scripted_broker_snapshot(broker);
    rig_gateway_kill(rig);
    scripted_expect_ended(broker, GATEWAY);
    scripted_broker_restore_retained(broker); // online, of the run that was killed
    rig_gateway_start(rig, NULL);
    rig_expect_state(rig);
    scripted_broker_stop(broker);
    scripted_broker_restart(broker, SCRIPTED_RETAINED | SCRIPTED_SESSIONS | SCRIPTED_SNAPSHOT);
    rig_expect_log_times(rig, ": connected", 2);
    scripted_broker_publish(broker, "trackbus/command/gw/devices/none", "x", false);
    rig_expect_log(rig, "command rejected");
    rig_wait_until(rig_clock() + 3000); // the roll call settles
    cr_assert_eq(rig_log_count(rig, SAME_ID), 0);
    scripted_broker_finish(broker);
}

// --- two that take commands in ---

#define SECOND      "{'mqtt':{'client_id':'second'}}"
#define TWO_INTAKES "takes commands in as well"

Test(rivals, two_intakes_name_each_other) {
    struct rig *rig = rig_up(NULL), *second = rig_beside(rig);
    rig_gateway_start(second, SECOND);
    rig_expect_log(rig, "'second' " TWO_INTAKES);
    rig_expect_log(second, "'trackbus' " TWO_INTAKES);
    rig_finish(rig);
}

Test(rivals, second_intake_is_named_each_time_that_it_appears) {
    struct rig *rig = rig_up(NULL), *second = rig_beside(rig);
    rig_gateway_start(second, SECOND);
    rig_expect_log(rig, TWO_INTAKES);
    rig_broker_kill(rig);
    rig_broker_start(rig, NULL);
    rig_expect_log_times(rig, ": connected", 2);
    rig_expect_log_times(second, ": connected", 2);
    rig_gateway_stop(second); // which is heard behind all else
    rig_expect_message(rig, "state/gw/instances/second", "{'state':'offline'}", RIG_DEADLINE);
    cr_assert_eq(rig_log_count(rig, TWO_INTAKES), 1);
    rig_gateway_start(second, SECOND);
    rig_expect_log_times(rig, TWO_INTAKES, 2);
    rig_broker_kill(rig);
    rig_gateway_kill(second); // while nobody hears it
    rig_broker_start(rig, NULL);
    rig_expect_log_times(rig, ": connected", 3);
    rig_wait_until(rig_clock() + 3000); // the roll call settles
    rig_gateway_start(second, SECOND);
    rig_expect_log_times(rig, TWO_INTAKES, 3);
    rig_finish(rig);
}

Test(rivals, one_intake_among_several_is_right) {
    struct rig *rig = rig_up(NULL), *second = rig_beside(rig);
    rig_gateway_start(second, "{'mqtt':{'client_id':'second'},'commands':{'intake':false}}");
    rig_expect_state(second);
    json_t *state = rig_expect_standing_json(rig, "state/gw/instances/second", "{'state':'online'}");
    cr_assert_null(json_object_get(state, "commands"));
    json_decref(state);
    rig_gateway_stop(second);
    rig_expect_message(rig, "state/gw/instances/second", "{'state':'offline'}", RIG_DEADLINE);
    cr_assert(!rig_log_has(rig, TWO_INTAKES));
    rig_finish(rig);
}

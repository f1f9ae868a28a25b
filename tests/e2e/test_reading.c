// What the broker retains from an earlier run is read at the start, on a second connection where the broker
// accepts one, and whatever hinders it is said in one line.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/e2e/rig.h"
#include "tests/e2e/scripted_broker.h"
#include "tests/e2e/state.h"

TestSuite(reading, .fini = rig_clean);

#define READER    "trackbus-reader"
#define CONNECTED "trackbus/" VAN_STATE "/connected"

// A gateway that was killed while a device was connected.
static struct scripted_broker *after_a_run(struct rig *rig) {
    struct scripted_broker *broker = scripted_broker_start(rig);
    rig_gateway_start(rig, NULL);
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    scripted_expect_retained(broker, CONNECTED, "true");
    rig_gateway_kill(rig);
    return broker;
}

// The next run learns that it left the device behind as connected.
static void is_read(struct rig *rig, struct scripted_broker *broker) {
    rig_gateway_start(rig, NULL);
    scripted_expect_retained(broker, CONNECTED, "false");
}

Test(reading, on_the_main_connection_when_a_second_one_is_refused) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = after_a_run(rig);
    int rule = scripted_broker_set(broker, (struct scripted_rule){.client = READER, .reason = 0x85});
    is_read(rig, broker);
    scripted_expect_hits(broker, rule, 1);
    rig_expect_log(rig, "does not take a second connection with the client id '" READER "'");
    cr_assert_eq(scripted_broker_hits(broker, rule), 1, "it is tried again");
    cr_assert(!rig_log_has(rig, "the broker told"));
    scripted_broker_finish(broker);
}

Test(reading, on_the_main_connection_when_a_second_one_is_closed) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = after_a_run(rig);
    scripted_broker_set(broker, (struct scripted_rule){.client = READER, .answer = SCRIPTED_CLOSES});
    is_read(rig, broker);
    scripted_broker_finish(broker);
}

// What is retained comes although the lasting subscription asks for live messages only, which 3.1.1 cannot say.
Test(reading, on_the_main_connection_with_3_1_1) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    scripted_broker_set(broker, (struct scripted_rule){.client = READER, .reason = 0x85});
    scripted_broker_publish(broker, "trackbus/" VAN_STATE "/telemetry/timestamp", "1767225600", true);
    scripted_broker_publish(broker, "trackbus/" VAN_STATE "/telemetry/battery.voltage", "3.9", true);
    scripted_broker_publish(broker, "trackbus/" VAN_STATE,
                            "{\"device_type_id\":0,\"id\":" VAN ",\"ident\":\"" VAN "\",\"name\":\"" VAN
                            "\",\"protocol_id\":1}",
                            true);
    rig_gateway_start(rig, "{'mqtt':{'version':'3.1.1'},'devices':[{'ident':'" VAN "','id':" VAN "}]}");
    int device = rig_tcp(rig);
    scripted_expect_publishes(broker, "trackbus/state/gw/channels/1", NULL, 1);
    device_send(device, report(VAN, 1)); // of 2019
    scripted_expect_publishes(broker, "trackbus/message/gw/devices/" VAN, NULL, 1);
    scripted_expect_retained(broker, CONNECTED, "true");
    scripted_expect_retained(broker, "trackbus/" VAN_STATE "/telemetry/battery.voltage", "3.9");
    scripted_broker_finish(broker);
}

// What a connection asked for before goes on: another gateway says that our device is not there.
Test(reading, leaves_the_lasting_subscriptions_as_they_were) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = after_a_run(rig);
    scripted_broker_set(broker, (struct scripted_rule){.client = READER, .reason = 0x85});
    is_read(rig, broker);
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 2));
    scripted_expect_retained(broker, CONNECTED, "true");
    scripted_broker_publish(broker, CONNECTED, "false", true);
    scripted_expect_retained(broker, CONNECTED, "true");
    scripted_broker_finish(broker);
}

// Each connection has the id of the user, so that a second one ends the first.
Test(reading, goes_on_where_the_broker_makes_the_user_the_client_id) {
    struct rig *rig = rig_new();
    char lines[512];
    snprintf(lines, sizeof lines, "%suse_username_as_clientid true\n", rig_broker_password_lines(rig));
    rig_broker_start(rig, lines);
    rig_gateway_start(rig, "{'mqtt':{'username':'" RIG_USER "','password':'" RIG_PASSWORD "'}}");
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    rig_expect_log_times(rig, ": connected", 2);
    rig_expect_counters(rig, "outbox: 0 messages");
    cr_assert(!rig_log_has(rig, "the broker told"));
    rig_gateway_stop(rig);
    cr_assert(rig_log_count(rig, ": connected") <= 3, "the two go on ending each other");
    rig->finished = true;
}

Test(reading, a_slow_broker_is_waited_for) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = after_a_run(rig);
    scripted_broker_set(
        broker, (struct scripted_rule){.on = SCRIPTED_SUBSCRIBE, .client = READER, .retained_delay = 2500});
    is_read(rig, broker);
    rig_expect_log(rig, "the broker was slow to tell what it retains");
    cr_assert(!rig_log_has(rig, "max_queued_messages"), "a wrong setting is blamed");
    scripted_broker_finish(broker);
}

Test(reading, without_the_right_to_read_is_said) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    scripted_broker_set(broker, (struct scripted_rule){.on = SCRIPTED_SUBSCRIBE, .nothing = true});
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig,
                   "may not read trackbus/state/gw/instances/trackbus/#: what it publishes there does not "
                   "come back");
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    scripted_expect_publishes(broker, "trackbus/message/gw/devices/" VAN, NULL, 1);
    scripted_expect_retained(broker, CONNECTED, "true");
    scripted_broker_finish(broker);
}

#define OTHERS "trackbus/state/gw/devices/77"

// A broker with a short queue leaves out who it is, at first also when it is asked for that alone.
Test(reading, leaves_the_telemetry_of_another_gateways_device_alone) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    scripted_broker_set(broker, (struct scripted_rule){.on = SCRIPTED_SUBSCRIBE,
                                                       .topic = "trackbus/state/gw/devices/+",
                                                       .nothing = true});
    scripted_broker_set(broker, (struct scripted_rule){
                                    .on = SCRIPTED_SUBSCRIBE, .topic = OTHERS, .times = 1, .nothing = true});
    scripted_broker_publish(broker, OTHERS "/telemetry/timestamp", "1767225600", true);
    scripted_broker_publish(broker, OTHERS "/telemetry/battery.voltage", "3.9", true);
    scripted_broker_publish(broker, OTHERS,
                            "{\"device_type_id\":0,\"id\":77,\"ident\":\"" CAR "\",\"name\":\"" CAR
                            "\",\"protocol_id\":1}",
                            true);
    rig_gateway_start(rig, NULL);
    scripted_expect_subscribes(broker, "trackbus", OTHERS, 2);
    int device = rig_tcp(rig); // all that was asked before is answered before this comes
    device_send(device, report(VAN, 1));
    scripted_expect_retained(broker, CONNECTED, "true");
    scripted_expect_retained(broker, OTHERS "/telemetry/battery.voltage", "3.9");
    scripted_broker_finish(broker);
}

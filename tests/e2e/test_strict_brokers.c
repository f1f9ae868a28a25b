// Brokers that allow the gateway less than it asks for: no second connection, no reading, no commands, nothing large.
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/rig.h"
#include "tests/e2e/scripted_broker.h"

TestSuite(strict, .fini = rig_clean, .timeout = 120);

#define GATEWAY    "trackbus"
#define READER     "*-reader"
#define COMMANDS   "trackbus/command/gw/#"
#define AS_GATEWAY "{'mqtt':{'username':'gateway','password':'x'}}"
#define SECOND     "does not take a second connection with the client id 'trackbus-reader'"

// --- what an earlier run left behind is put right also without a connection of its own ---

#define CONNECTED "state/gw/devices/" VAN "/connected"
#define SOON      8000 // milliseconds; a reader that hears nothing gives up after 10 s
#define FILTERS   8    // of what it retains, each in a SUBSCRIBE of its own

// A broker where a gateway was killed while a device was connected, and which follows the rule from then on.
static struct scripted_broker *left_behind_by(struct rig *rig, struct scripted_rule rule) {
    struct scripted_broker *broker = scripted_broker_start(rig);
    rig_client_start(rig);
    rig_gateway_start(rig, NULL);
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect_standing(rig, CONNECTED, "true");
    rig_gateway_kill(rig);
    scripted_expect_ended(broker, GATEWAY);
    scripted_expect_ended(broker, READER);
    scripted_broker_set(broker, rule);
    return broker;
}

static bool is_put_right(void *context) {
    json_t *retained = rig_retained(context, CONNECTED);
    const json_t *payload = json_object_get(retained, "trackbus/" CONNECTED);
    bool right = payload != NULL && strcmp(json_string_value(payload), "false") == 0;
    json_decref(retained);
    return right;
}

static void expect_put_right(struct rig *rig, int milliseconds) {
    cr_assert(rig_wait(is_put_right, rig, milliseconds), "what was left behind stands");
}

static void reads_on_the_main_connection(struct scripted_rule rule) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = left_behind_by(rig, rule);
    rig_gateway_start(rig, NULL);
    expect_put_right(rig, SOON);
    cr_assert_eq(rig_log_count(rig, SECOND), 1);
    cr_assert(!rig_log_has(rig, "retrying"));
    scripted_broker_finish(broker);
}

static const struct scripted_rule refusals[] = {
    {.client = READER, .reason = 0x85},
    {.client = READER, .reason = 0x87},
    {.client = READER, .answer = SCRIPTED_CLOSES},
    {.client = READER, .on = SCRIPTED_SUBSCRIBE, .reason = 0x87},
    {.client = READER, .on = SCRIPTED_SUBSCRIBE, .answer = SCRIPTED_CLOSES},
};

ParameterizedTestParameters(strict, second_connection_that_is_refused) {
    static size_t rows[] = {0, 1, 2, 3, 4};
    return cr_make_param_array(size_t, rows, sizeof rows / sizeof rows[0]);
}

ParameterizedTest(size_t *row, strict, second_connection_that_is_refused) {
    reads_on_the_main_connection(refusals[*row]);
}

Test(strict, second_connection_that_is_refused_with_3_1_1) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    scripted_broker_set(broker, (struct scripted_rule){.client = READER, .reason = 0x87});
    rig_client_start(rig);
    int64_t begun = rig_clock();
    rig_gateway_start(rig, "{'mqtt':{'version':'3.1.1'}}");
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect_standing(rig, CONNECTED, "true");
    cr_assert_leq(rig_clock() - begun, SOON);
    cr_assert_eq(rig_log_count(rig, SECOND), 1);
    scripted_broker_finish(broker);
}

Test(strict, second_connection_that_is_told_nothing) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = left_behind_by(
        rig, (struct scripted_rule){.client = READER, .on = SCRIPTED_SUBSCRIBE, .nothing = true});
    rig_gateway_start(rig, NULL);
    expect_put_right(rig, SOON);
    rig_expect_log(rig, "told nothing on a second connection with the client id 'trackbus-reader'");
    scripted_broker_finish(broker);
}

// Subscriptions that the link has anyway are used for reading, and go on after it.
Test(strict, main_connection_goes_on_as_before_when_it_has_read) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker =
        left_behind_by(rig, (struct scripted_rule){.client = READER, .reason = 0x87});
    static const char filter[] = "trackbus/state/gw/devices/+/connected";
    rig_gateway_start(rig, NULL);
    expect_put_right(rig, SOON);
    scripted_expect_subscribes(broker, GATEWAY, filter, 4); // the first is the earlier run's
    const struct scripted_subscribe *first = scripted_broker_subscribe_at(broker, GATEWAY, filter, 1);
    const struct scripted_subscribe *between = scripted_broker_subscribe_at(broker, GATEWAY, filter, 2);
    const struct scripted_subscribe *last = scripted_broker_subscribe_at(broker, GATEWAY, filter, 3);
    cr_assert_neq(between->retain_handling, first->retain_handling);
    cr_assert_eq(last->retain_handling, first->retain_handling);
    cr_assert_eq(last->no_local, first->no_local);
    scripted_broker_finish(broker);
}

// The user's name becomes the client id of both connections: one ends the other, once or twice, and then there is peace.
Test(strict, broker_that_takes_both_connections_for_one) {
    struct rig *rig = rig_with_broker("use_username_as_clientid true\n");
    rig_gateway_start(rig, AS_GATEWAY);
    rig_expect_log_times(rig, ": connected", 2);
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect_standing(rig, CONNECTED, "true");
    rig_wait_until(rig_clock() + 3000);
    cr_assert_leq(rig_log_count(rig, ": connected"), 4, "they fight");
    rig_finish(rig);
}

Test(strict, second_connection_that_is_ended_again_and_again) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = left_behind_by(
        rig, (struct scripted_rule){.client = READER, .on = SCRIPTED_SUBSCRIBE, .retained_delay = 60000});
    size_t before = scripted_broker_subscribes(broker, READER, NULL);
    rig_gateway_start(rig, NULL);
    for (size_t i = 1; i <= 2; i++) { // ended earlier, it would count as refused
        scripted_expect_subscribes(broker, READER, NULL, before + i * FILTERS);
        scripted_expect_connected(broker, READER);
        scripted_broker_disconnect(broker, READER, 0);
    }
    expect_put_right(rig, 4000);
    cr_assert_eq(rig_log_count(rig, SECOND), 1);
    scripted_broker_finish(broker);
}

// --- slow brokers, and brokers whose queue is short ---

Test(strict, broker_that_is_slow_to_tell_is_waited_for) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = left_behind_by(
        rig, (struct scripted_rule){.client = READER, .on = SCRIPTED_SUBSCRIBE, .retained_delay = 3000});
    rig_gateway_start(rig, NULL);
    expect_put_right(rig, SOON);
    rig_expect_log(rig, "was slow to tell what it retains");
    cr_assert(!rig_log_has(rig, "max_queued_messages"));
    cr_assert(!rig_log_has(rig, SECOND));
    scripted_broker_finish(broker);
}

#define MANY  2500
#define LARGE 8192 // bytes; what a socket takes is not in Mosquitto's queue

Test(strict, broker_that_leaves_out_what_it_retains_is_named) {
    struct rig *rig = rig_with_broker(RIG_BROKER_LIMITS);
    static char text[LARGE + 1];
    memset(text, ' ', LARGE);
    for (int i = 1; i <= MANY; i++) {
        char topic[48];
        snprintf(topic, sizeof topic, "state/gw/devices/%d", i);
        rig_publish_retained(rig, topic, text);
    }
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, "left out some of what it retains");
    cr_assert(!rig_log_has(rig, "slow"));
    rig_finish(rig);
}

// --- no right to read ---

// Of a gateway that waits for seconds, and how many times as fast it is.
#define CLOCK "+0 x6"
#define FAST  6

// A Mosquitto with rules for a user 'gateway'.
static struct rig *up_with_rules(const char *rules, const char *changes) {
    struct rig *rig = rig_new();
    char lines[160], acl[600];
    snprintf(lines, sizeof lines, "acl_file %s/acl\n", rig->directory);
    snprintf(acl, sizeof acl, "topic readwrite #\nuser rig\ntopic readwrite #\nuser gateway\n%s", rules);
    rig_write_file(rig, "acl", acl);
    rig_broker_start(rig, lines);
    rig_client_start(rig);
    rig->clock = CLOCK;
    rig_gateway_start(rig, changes);
    return rig;
}

Test(strict, user_that_may_only_write_is_named_once) {
    struct rig *rig = up_with_rules("topic write trackbus/#\n", AS_GATEWAY);
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':1}");
    rig_expect_log(rig, "user 'gateway' may not read trackbus/state/gw/instances/trackbus/#");
    cr_assert(!rig_log_has(rig, "max_queued_messages"));
    rig_broker_kill(rig);
    rig_expect_log(rig, "retrying in");
    char lines[160];
    snprintf(lines, sizeof lines, "acl_file %s/acl\n", rig->directory);
    rig_broker_start(rig, lines);
    rig_expect_log_times(rig, ": connected", 2);
    rig_wait_until(rig_clock() + 12000 / FAST); // as long as it took before
    cr_assert_eq(rig_log_count(rig, "may not read"), 1);
    cr_assert(!rig_log_has(rig, "slow"));
    rig_finish(rig);
}

Test(strict, user_that_may_read_and_write_is_not_named) {
    struct rig *rig = up_with_rules("topic readwrite trackbus/#\n", AS_GATEWAY);
    rig_expect_state(rig);
    rig_wait_until(rig_clock() + 12000 / FAST);
    cr_assert(!rig_log_has(rig, "may not read"));
    rig_finish(rig);
}

// --- no commands ---

#define NO_COMMANDS "{'state':'online','commands':false}"
#define TAKES_IN    "{'state':'online','commands':true}"

static void comes_back_for(struct scripted_rule rule, const char *changes) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    rule.on = SCRIPTED_SUBSCRIBE;
    rule.topic = COMMANDS;
    rule.times = 2;
    scripted_broker_set(broker, rule);
    rig_client_start(rig);
    rig_gateway_start(rig, changes);
    rig_expect(rig, INSTANCE, NO_COMMANDS);
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':1}");
    rig_expect(rig, INSTANCE, TAKES_IN);
    cr_assert_eq(scripted_broker_connects(broker, GATEWAY), 1);
    cr_assert_eq(rig_log_count(rig, "subscription to " COMMANDS " rejected"), 1);
    rig_expect_log(rig, "subscription to " COMMANDS " accepted");
    scripted_broker_finish(broker);
}

static const uint8_t passing[] = {0x80, 0x91, 0x97};

ParameterizedTestParameters(strict, commands_that_are_refused_for_now) {
    static size_t rows[] = {0, 1, 2};
    return cr_make_param_array(size_t, rows, 3);
}

ParameterizedTest(size_t *row, strict, commands_that_are_refused_for_now) {
    comes_back_for((struct scripted_rule){.reason = passing[*row]}, NULL);
}

Test(strict, commands_that_are_refused_for_now_with_3_1_1) {
    comes_back_for((struct scripted_rule){.reason = 0x80}, "{'mqtt':{'version':'3.1.1'}}");
}

// Somebody may change the broker's access list while we are connected.
Test(strict, commands_that_are_forbidden_are_asked_for_again_after_a_while) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    scripted_broker_set(broker, (struct scripted_rule){
                                    .on = SCRIPTED_SUBSCRIBE, .topic = COMMANDS, .reason = 0x87, .times = 1});
    rig_client_start(rig);
    rig->clock = CLOCK;
    rig_gateway_start(rig, NULL);
    rig_expect(rig, INSTANCE, NO_COMMANDS);
    rig_expect_log(rig, "asking again every 30 s");
    rig_expect_message(rig, INSTANCE, TAKES_IN, 60000);
    cr_assert_eq(scripted_broker_connects(broker, GATEWAY), 1);
    scripted_broker_finish(broker);
}

Test(strict, commands_that_nobody_wants_are_not_missed) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    rig_client_start(rig);
    rig_gateway_start(rig, "{'commands':{'intake':false}}");
    json_t *state = rig_expect_standing_json(rig, INSTANCE, "{'state':'online'}");
    cr_assert_null(json_object_get(state, "commands"));
    json_decref(state);
    cr_assert_eq(scripted_broker_subscribes(broker, GATEWAY, COMMANDS), 0);
    scripted_broker_finish(broker);
}

#define RULES                                                                                                \
    "/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so" // Mosquitto's acl_file refuses nothing

Test(strict, mosquitto_that_forbids_commands) {
    struct rig *rig = rig_new();
    char lines[400];
    if (access(RULES, R_OK) != 0)
        cr_skip_test("Mosquitto's dynamic security is not installed");
    rig_write_file(rig, "rules.json",
                   "{\"defaultACLAccess\":{\"publishClientSend\":true,\"publishClientReceive\":true,"
                   "\"subscribe\":true,\"unsubscribe\":true},\"clients\":[],\"anonymousGroup\":\"all\","
                   "\"groups\":[{\"groupname\":\"all\",\"roles\":[{\"rolename\":\"few\"}]}],"
                   "\"roles\":[{\"rolename\":\"few\",\"acls\":[{\"acltype\":\"subscribePattern\","
                   "\"topic\":\"trackbus/command/#\",\"priority\":1,\"allow\":false}]}]}");
    snprintf(lines, sizeof lines, "plugin " RULES "\nplugin_opt_config_file %s/rules.json\n", rig->directory);
    rig_broker_start(rig, lines);
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, "subscription to " COMMANDS " rejected: Not authorized");
    rig_expect_log(rig, ": connected");
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect_log(rig, "device " VAN ": identified");
    rig_expect_counters(rig,
                        "outbox: 0 messages"); // the rig's client has a name, which these rules do not know
    rig_finish(rig);
}

// --- what is too large ---

#define HUGE (32 << 20) // bytes; Mosquitto takes up to 256 MiB

// Bytes of memory that the process had at most.
static long peak_memory(pid_t process) {
    char path[64], line[256];
    long kilobytes = -1;
    snprintf(path, sizeof path, "/proc/%d/status", (int)process);
    FILE *file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, "VmHWM:", 6) == 0)
            kilobytes = strtol(line + 6, NULL, 10);
    if (file != NULL)
        fclose(file);
    return kilobytes * 1024;
}

static void expect_command(struct rig *rig, const char *text) {
    char subset[64];
    snprintf(subset, sizeof subset, "{'properties':{'payload':'%s'}}", text);
    rig_publish(rig, "command/gw/devices/" VAN, text);
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/custom/queued", subset);
}

// The limit of docker/mosquitto.conf.
static const char *advised_limit(void) {
    static char line[128];
    FILE *file = fopen(TEST_ROOT "/docker/mosquitto.conf", "r");
    bool found = false;
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL)
        found = strncmp(line, "message_size_limit ", 19) == 0;
    cr_assert(found, "it sets no message_size_limit");
    fclose(file);
    return line;
}

static void expect_huge_command_to_cost_less(struct rig *rig, long most) {
    char *huge = calloc(1, HUGE);
    rig_expect(rig, INSTANCE "/queue", NULL); // all that it does at its start is done
    expect_command(rig, "where?");
    long before = peak_memory(rig->gateway);
    rig_publish_bytes(rig, "command/gw/devices/" VAN, huge, HUGE);
    expect_command(rig, "light,1#");
    long after = peak_memory(rig->gateway);
    cr_assert(before > 0 && after - before < most, "from %ld to %ld bytes", before, after);
    free(huge);
    rig_finish(rig);
}

Test(strict, huge_command_costs_no_memory) {
    expect_huge_command_to_cost_less(rig_up(NULL), HUGE / 4);
}

// MQTT 3.1.1 cannot say how much we take, and the library has no bound: the broker's own does.
Test(strict, huge_command_costs_no_memory_with_3_1_1_and_the_advised_limit) {
    rig_speak("3.1.1");
    struct rig *rig = rig_with_broker(advised_limit());
    rig_gateway_start(rig, NULL);
    rig_expect_state(rig);
    expect_huge_command_to_cost_less(rig, HUGE); // whoever takes it has it once at least
}

// What is retained stays right whatever becomes of it at the broker: one that falls back to an older state of its
// disk, somebody who empties or overwrites topics of ours, a Last Will that comes late, writes that change their
// order.
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/scripted_broker.h"
#include "tests/e2e/state.h"

TestSuite(state_kept, .fini = rig_clean, .timeout = 180);

#define PERSISTS   "persistence true\n" // only when it is told to, and at its end
#define GENERATION INSTANCE "/generation"
#define FLEET      6 // devices, with at least nine topics each

// --- a broker that falls back ---

static const char *ident_of(int i) {
    static char idents[FLEET][16];
    snprintf(idents[i], sizeof idents[i], "8664250314000%02d", i);
    return idents[i];
}

// Each device says what it says in that round, and no value is as in another round.
static void speak(struct rig *rig, const int devices[FLEET], int round) {
    for (int i = 0; i < FLEET; i++) {
        char items[96];
        snprintf(items, sizeof items, "R0;%d+1901091200%02d+%d.5+%d.25+%d+%d+2+37%02d+%d", 5 + round,
                 10 + round, 20 + round, 110 + round, round, 10 * round, round, round);
        say(rig, devices[i], ident_of(i), items);
    }
}

static void expect_round(struct rig *rig, int round) {
    for (int i = 0; i < FLEET; i++) {
        char topic[160], value[16];
        snprintf(topic, sizeof topic, "state/gw/devices/%s/telemetry/position.satellites", ident_of(i));
        snprintf(value, sizeof value, "%d", 5 + round);
        rig_expect_standing(rig, topic, value);
    }
}

struct growing {
    struct rig *rig;
    long past;
};

static long generation_of(struct rig *rig) {
    json_t *all = rig_retained(rig, GENERATION);
    const char *text = json_string_value(json_object_get(all, "trackbus/" GENERATION));
    long generation = text != NULL ? atol(text) : 0;
    json_decref(all);
    return generation;
}

static bool has_grown(void *context) {
    struct growing *growing = context;
    return generation_of(growing->rig) > growing->past;
}

// Everything up to now is part of a generation that the broker has.
static void expect_to_grow(struct rig *rig, long past) {
    struct growing growing = {.rig = rig, .past = past};
    cr_assert(rig_wait(has_grown, &growing, RIG_DEADLINE), "the generation is still %ld", past);
}

struct resting {
    struct rig *rig;
    long generation;
    int64_t since;
};

static bool rests(void *context) {
    struct resting *resting = context;
    long generation = generation_of(resting->rig);
    if (generation != resting->generation)
        resting->since = rig_clock();
    resting->generation = generation;
    return rig_clock() - resting->since > 2500; // it is published every second while anything changes
}

// Nothing is published any more.
static void expect_to_rest(struct rig *rig) {
    struct resting resting = {.rig = rig, .since = rig_clock()};
    cr_assert(rig_wait(rests, &resting, RIG_DEADLINE), "there is no end of it");
}

// All that is retained, but for the number that grows.
static json_t *retained(struct rig *rig) {
    json_t *all = rig_retained(rig, "state/#");
    json_object_del(all, "trackbus/" GENERATION);
    json_object_del(all, "trackbus/" INSTANCE "/metrics"); // which count on
    return all;
}

struct sameness {
    struct rig *rig;
    json_t *before, *after;
};

static bool is_the_same(void *context) {
    struct sameness *sameness = context;
    json_decref(sameness->after);
    sameness->after = retained(sameness->rig);
    return json_equal(sameness->before, sameness->after);
}

static void say_differences(const json_t *before, const json_t *after) {
    const char *topic;
    json_t *value;
    json_object_foreach((json_t *)before, topic, value) if (!json_equal(value, json_object_get(after, topic)))
        fprintf(stderr, "%s is not as it was\n", topic);
    json_object_foreach((json_t *)after, topic, value) if (json_object_get(before, topic) == NULL)
        fprintf(stderr, "%s was not there\n", topic);
}

static void expect_the_same(struct rig *rig, json_t *before) {
    struct sameness sameness = {.rig = rig, .before = before};
    bool same = rig_wait(is_the_same, &sameness, 2 * RIG_DEADLINE);
    if (!same)
        say_differences(before, sameness.after);
    cr_assert(same, "what is retained is not as it was");
    json_decref(sameness.after);
    json_decref(before);
}

static struct rig *speaking_fleet(int devices[FLEET]) {
    struct rig *rig = rig_with_broker(PERSISTS);
    rig_gateway_start(rig, "{'home_assistant':{'enabled':true,'unknown_devices':true}}");
    rig_expect_state(rig);
    for (int i = 0; i < FLEET / 2; i++)
        devices[i] = wake(rig, ident_of(i));
    return rig;
}

// Half of the devices come after the broker has saved; one goes; all have other values; a command that stands
// there as pending has ended.
static json_t *change_everything(struct rig *rig, int devices[FLEET]) {
    for (int i = FLEET / 2; i < FLEET; i++)
        devices[i] = wake(rig, ident_of(i));
    speak(rig, devices, 1);
    speak(rig, devices, 2);
    rig_publish(rig, "command/gw/devices/866425031400000", REBOOT);
    device_expect(devices[0], "reboot,0#");
    device_send(devices[0], "reboot=Success!\r\n");
    expect_step(rig, ident_of(0), "reboot", "processed", NULL);
    close(devices[FLEET - 1]);
    rig_expect_standing(rig, "state/gw/devices/866425031400005/connected", "false");
    expect_round(rig, 2);
    rig_expect_none_retained(rig, ALL_PENDING);
    return retained(rig);
}

static size_t count_of(const json_t *all, const char *part) {
    size_t count = 0;
    const char *topic;
    json_t *value;
    json_object_foreach((json_t *)all, topic, value) count += strstr(topic, part) != NULL;
    return count;
}

Test(state_kept, when_the_broker_falls_back_to_an_older_state) {
    int devices[FLEET];
    struct rig *rig = speaking_fleet(devices);
    rig_publish(rig, TO_VAN, REBOOT); // VAN is away: it stays pending
    expect_step(rig, VAN, "reboot", "queued", NULL);
    close(wake(rig, CAR));
    rig_expect_standing(rig, CAR_STATE "/connected", "false");
    expect_to_grow(rig, 0);
    rig_broker_save(rig);
    long saved = generation_of(rig);
    wake(rig, CAR);
    int van = wake(rig, VAN);
    device_expect(van, "reboot,0#");
    device_send(van, "reboot=Success!\r\n");
    expect_step(rig, VAN, "reboot", "processed", NULL);
    json_t *before = change_everything(rig, devices);
    cr_assert(count_of(before, "/devices/") > 50, "only %zu topics", count_of(before, "/devices/"));
    expect_to_grow(rig, saved);
    rig_broker_fall_back(rig, PERSISTS);
    expect_the_same(rig, before);
    expect_steps(rig, VAN, "sent", 1);
    finish(rig);
    device_expect_no_more(van);
}

Test(state_kept, of_devices_that_were_removed_before_the_broker_fell_back) {
    struct rig *rig = rig_with_broker(PERSISTS);
    rig_write_json(rig, "devices.json", "[{'ident':'" VAN "','id':42,'name':'Van 1'}]");
    char changes[160];
    snprintf(
        changes, sizeof changes,
        "{'devices_file':'%s/devices.json','unknown_devices':'reject','home_assistant':{'enabled':true}}",
        rig->directory);
    rig_gateway_start(rig, changes);
    say(rig, rig_tcp(rig), VAN, "R0;10+190109120000+22.63827+114.02922+2.14+69+2+3744+1");
    rig_expect_standing(rig, "state/gw/devices/42/telemetry/battery.voltage", "3.744");
    expect_to_grow(rig, 0);
    rig_broker_save(rig);
    rig_write_json(rig, "devices.json", "[]");
    rig_gateway_signal(rig, SIGHUP);
    rig_expect_none_retained(rig, "state/gw/devices/42/#");
    rig_expect_none_retained(rig, "/homeassistant/+/+/+/config");
    expect_to_rest(rig);
    rig_broker_fall_back(rig, PERSISTS);
    cr_assert(rig_count_retained(rig, "state/gw/devices/42/#") > 0, "it did not fall back");
    rig_expect_none_retained(rig, "state/gw/devices/42/#");
    rig_expect_none_retained(rig, "/homeassistant/+/+/+/config");
    rig_finish(rig);
}

// Not counting what the rig's client was told when it subscribed.
static size_t count_live(struct rig *rig, const char *filter) {
    const struct rig_message *message;
    size_t count = 0, next = 0;
    while ((message = rig_next(rig, filter, &next)) != NULL)
        count += !message->retain;
    return count;
}

// A broker that has lost nothing is given nothing again.
Test(state_kept, is_not_given_again_after_an_ordinary_reconnection) {
    int devices[FLEET];
    struct rig *rig = rig_with_broker(RIG_BROKER_KEEPS);
    rig_gateway_start(rig, NULL);
    rig_expect_state(rig);
    for (int i = 0; i < FLEET; i++)
        devices[i] = wake(rig, ident_of(i));
    speak(rig, devices, 1);
    expect_round(rig, 1);
    expect_to_grow(rig, 0);
    expect_to_rest(rig);
    size_t before = count_live(rig, "state/gw/devices/+/telemetry/+");
    rig_broker_kill(rig);
    rig_broker_start(rig, RIG_BROKER_KEEPS);
    rig_expect_log_times(rig, ": connected", 2);
    wake(rig, VAN);
    rig_expect_standing(rig, VAN_STATE "/connected", "true");
    expect_to_grow(rig, generation_of(rig)); // only after it is known what the broker has
    size_t vans = count_live(rig, VAN_STATE "/telemetry/+");
    size_t after = count_live(rig, "state/gw/devices/+/telemetry/+") - vans;
    cr_assert(after == before, "%zu values were published again", after - before);
    rig_finish(rig);
}

// --- what somebody else writes ---

static void spoil(struct rig *rig, const char *topic, const char *payload) {
    json_t *all = rig_retained(rig, topic), *value;
    const char *name;
    cr_assert(json_object_size(all) == 1, "%s is not retained", topic);
    json_object_foreach(all, name, value) {
        rig_publish_retained(rig, topic, payload);
        rig_expect(rig, topic, NULL);
        rig_expect_standing(rig, topic, json_string_value(value));
    }
    json_decref(all);
}

static const char *const ours[] = {VAN_STATE,
                                   VAN_STATE "/connected",
                                   VAN_STATE "/instance",
                                   VAN_STATE "/telemetry/battery.voltage",
                                   VAN_STATE "/telemetry/position",
                                   VAN_STATE "/telemetry/ident",
                                   "state/gw/channels/1",
                                   INSTANCE};

Test(state_kept, when_somebody_empties_or_overwrites_it) {
    static const char *const payloads[] = {"", "1", "{\"state\":\"offline\"}", "\"somebody\"", "false"};
    struct rig *rig = rig_up(NULL);
    wake(rig, VAN);
    rig_expect(rig, INSTANCE "/queue", NULL); // it knows what the broker has
    for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
        for (size_t j = 0; j < sizeof payloads / sizeof payloads[0]; j++)
            spoil(rig, ours[i], payloads[j]);
    rig_finish(rig);
}

Test(state_kept, when_somebody_spoils_the_generation) {
    struct rig *rig = rig_up(NULL);
    wake(rig, VAN);
    expect_to_grow(rig, 0);
    expect_to_rest(rig);
    spoil(rig, GENERATION, "");
    spoil(rig, GENERATION, "12");
    spoil(rig, GENERATION, "999999999999999999999");
    rig_finish(rig);
}

Test(state_kept, when_somebody_removes_what_is_for_home_assistant) {
    struct rig *rig = rig_up("{'home_assistant':{'enabled':true,'unknown_devices':true}}");
    const char *topic = "/homeassistant/binary_sensor/trackbus_" VAN "/connected/config";
    wake(rig, VAN);
    json_decref(rig_expect_standing_json(rig, topic, "{'name':'Connected'}"));
    rig_publish_retained(rig, topic, "");
    json_decref(rig_expect_standing_json(rig, topic, "{'name':'Connected'}"));
    rig_finish(rig);
}

static void spoil_all(struct rig *rig, const char *const *topics, size_t count) {
    static const char *const payloads[] = {"", "1", "{}", "\"somebody\""};
    for (size_t i = 0; i < count; i++)
        spoil(rig, topics[i], payloads[i % (sizeof payloads / sizeof payloads[0])]);
}

#define HOME_ASSISTANT "'home_assistant':{'enabled':true,'unknown_devices':true}"
#define SENSOR         "/homeassistant/sensor/trackbus_" VAN

static const char *const overwritten[] = {"/homeassistant/device_tracker/trackbus_" VAN "/position/config",
                                          SENSOR "/battery_voltage/config",
                                          SENSOR "/position_speed/config",
                                          "/homeassistant/button/trackbus_" VAN "/reboot/config",
                                          INSTANCE "/queue",
                                          INSTANCE "/queue",
                                          INSTANCE "/queue"};

Test(state_kept, when_somebody_overwrites_what_is_for_home_assistant_or_the_marker) {
    struct rig *rig = rig_up("{" HOME_ASSISTANT "}");
    wake(rig, VAN);
    rig_expect(rig, INSTANCE "/queue", NULL);
    rig_expect(rig, overwritten[3], NULL); // the last to be announced
    for (size_t i = 0; i < 4; i++)
        spoil(rig, overwritten[i], i % 2 == 0 ? "17" : "{\"name\":\"Mine\"}");
    spoil_all(rig, overwritten, sizeof overwritten / sizeof overwritten[0]);
    rig_finish(rig);
}

static const char *const gateways[] = {"/homeassistant/binary_sensor/trackbus_gateway_trackbus_link/config",
                                       "/homeassistant/sensor/trackbus_gateway_trackbus_version/config",
                                       "/homeassistant/sensor/trackbus_gateway_trackbus_outbox/config",
                                       "/homeassistant/sensor/trackbus_gateway_trackbus_messages/config"};

// What stands there of the gateway itself.
Test(state_kept, when_somebody_overwrites_what_home_assistant_has_of_the_gateway) {
    struct rig *rig = rig_up("{" HOME_ASSISTANT "}");
    for (size_t i = 0; i < sizeof gateways / sizeof gateways[0]; i++)
        rig_expect(rig, gateways[i], NULL);
    spoil_all(rig, gateways, sizeof gateways / sizeof gateways[0]);
    rig_finish(rig);
}

static const char *const whole[] = {"/homeassistant/device/trackbus_" VAN "/config",
                                    "/homeassistant/device/trackbus_gateway_trackbus/config"};

Test(state_kept, when_somebody_overwrites_what_home_assistant_has_of_a_whole_device) {
    struct rig *rig =
        rig_up("{'home_assistant':{'enabled':true,'unknown_devices':true,'discovery':'device'}}");
    wake(rig, VAN);
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++)
        rig_expect(rig, whole[i], NULL);
    spoil_all(rig, whole, sizeof whole / sizeof whole[0]);
    rig_finish(rig);
}

// What is not the command that stands there.
Test(state_kept, when_somebody_overwrites_a_command) {
    struct rig *rig = rig_up(NULL);
    rig_publish(rig, "command/gw/devices/" VAN, "mode,6,60#");
    const struct rig_message *entry = rig_expect(rig, VAN_STATE "/commands-queue/+", NULL);
    const char *topic = entry->topic + strlen("trackbus/");
    char *other = strdup(entry->payload), *mode = strstr(other, "mode,6,60#");
    cr_assert(mode != NULL);
    mode[5] = '5';
    spoil(rig, topic, "17");
    spoil(rig, topic, other);
    spoil(rig, topic, "{\"id\":17}");
    rig_publish_retained(rig, topic, "");
    rig_expect(rig, "log/gw/devices/" VAN "/commands-queue/custom/canceled", NULL);
    rig_expect_standing(rig, topic, NULL);
    free(other);
    rig_finish(rig);
}

// What we publish comes back, and the telemetry of the van is heard by itself.
Test(state_kept, when_somebody_spoils_it_with_3_1_1) {
    rig_speak("3.1.1");
    struct rig *rig = rig_up("{" HOME_ASSISTANT "}");
    wake(rig, VAN);
    rig_expect(rig, INSTANCE "/queue", NULL);
    rig_expect(rig, overwritten[3], NULL);
    spoil_all(rig, ours, sizeof ours / sizeof ours[0]);
    spoil_all(rig, overwritten, sizeof overwritten / sizeof overwritten[0]);
    rig_finish(rig);
}

// As others do, with another gateway on the broker: each is told of its own devices.
Test(state_kept, when_somebody_spoils_it_with_two_gateways) {
    struct rig *rig = rig_up(NULL), *second = rig_beside(rig);
    rig_gateway_start(second, "{'mqtt':{'client_id':'second'},'commands':{'intake':false}}");
    json_decref(rig_expect_standing_json(rig, "state/gw/instances/second", "{'state':'online'}"));
    rig_expect(rig, INSTANCE "/queue", NULL);
    rig_expect(rig, "state/gw/instances/second/channels/1", NULL);
    wake(rig, VAN);
    wake(second, CAR);
    static const char *const topics[] = {
        VAN_STATE "/telemetry/battery.voltage", VAN_STATE "/instance", VAN_STATE,
        CAR_STATE "/telemetry/battery.voltage", CAR_STATE "/instance", CAR_STATE};
    for (size_t i = 0; i < sizeof topics / sizeof topics[0]; i++) {
        spoil(rig, topics[i], "");
        spoil(rig, topics[i], "17");
    }
    rig_finish(rig);
}

#define LISTED        "'devices':[{'ident':'" VAN "','id':42,'name':'Van 1'}]"
#define SECOND_LISTED "{'mqtt':{'client_id':'second'},'commands':{'intake':false}," LISTED "}"
#define VAN_42        "state/gw/devices/42"

// The second has the van; the first knows it from the registry, too.
static void give_van_to_second(struct rig *rig, struct rig *second) {
    rig_gateway_start(second, SECOND_LISTED);
    rig_expect(rig, "state/gw/instances/second/channels/1", NULL);
    say(rig, rig_tcp(second), VAN, "R0;10+190109120000+22.63827+114.02922+2.14+69+2+3744+1");
    rig_expect_standing(rig, VAN_42 "/connected", "true");
    rig_expect_standing(rig, VAN_42 "/instance", "\"second\"");
}

// Nobody who is left takes commands in: the first by name speaks for them.
Test(state_kept, of_devices_whose_gateway_is_gone_with_the_intake) {
    struct rig *rig = rig_with_broker(NULL), *second = rig_beside(rig), *intake = rig_beside(second);
    rig_gateway_start(intake, "{" LISTED "}");
    rig_gateway_start(rig, "{'mqtt':{'client_id':'b2'},'commands':{'intake':false}," LISTED "}");
    rig_gateway_start(second, "{'mqtt':{'client_id':'a3'},'commands':{'intake':false}," LISTED "}");
    rig_expect(rig, "state/gw/instances/b2/channels/1", NULL);
    rig_expect(rig, "state/gw/instances/a3/channels/1", NULL);
    rig_expect(rig, INSTANCE "/queue", NULL);
    wake(intake, VAN);
    rig_expect_standing(rig, VAN_42 "/connected", "true");
    rig_expect_standing(rig, VAN_42 "/instance", "\"trackbus\"");
    rig_gateway_kill(intake);
    rig_expect_standing(rig, VAN_42 "/connected", "false");
    rig_expect_standing(rig, VAN_42 "/instance", "\"a3\"");
    rig_finish(rig);
}

// Of another gateway a broker has told its channels alone: whether it is online is not known.
Test(state_kept, of_devices_of_a_gateway_that_may_be_online) {
    struct rig *rig = rig_with_broker(NULL);
    rig_publish_retained(rig, "state/gw/instances/ghost/channels/1", "{\"id\":1,\"connections\":1}");
    rig_publish_retained(rig, VAN_42 "/instance", "\"ghost\"");
    rig_publish_retained(rig, VAN_42 "/connected", "true");
    rig_gateway_start(rig, "{" LISTED "}");
    rig_expect_standing(rig, VAN_42 "/instance", "\"ghost\"");
    rig_expect(rig, INSTANCE "/queue", NULL); // it knows what the broker has
    json_decref(rig_expect_standing_json(rig, VAN_42, "{'id':42}"));
    rig_expect_standing(rig, VAN_42 "/connected", "true");
    rig_publish_retained(rig, "state/gw/instances/ghost", "{\"state\":\"offline\"}");
    rig_expect_standing(rig, VAN_42 "/connected", "false");
    rig_finish(rig);
}

Test(state_kept, of_devices_whose_gateway_is_gone) {
    struct rig *rig = rig_up("{" LISTED "}"), *second = rig_beside(rig);
    give_van_to_second(rig, second);
    rig_gateway_kill(second);
    rig_expect_standing(rig, VAN_42 "/connected", "false");
    rig_expect_standing(rig, VAN_42 "/instance", "\"trackbus\"");
    rig_gateway_start(second, SECOND_LISTED);
    say(rig, rig_tcp(second), VAN, "R0;10+190109120100+22.63827+114.02922+2.14+69+2+3744+2");
    rig_expect_standing(rig, VAN_42 "/connected", "true");
    rig_expect_standing(rig, VAN_42 "/instance", "\"second\"");
    rig_finish(rig);
}

// --- what only a broker of our own does ---

#define GATEWAY "trackbus"
#define OWN     "trackbus/" INSTANCE

struct set {
    struct rig *rig;
    struct scripted_broker *broker;
};

static struct set set_up(const char *changes) {
    struct set set = {.rig = rig_new()};
    set.broker = scripted_broker_start(set.rig);
    rig_client_start(set.rig);
    rig_gateway_start(set.rig, changes);
    rig_expect_state(set.rig);
    return set;
}

static double started_of(struct set *set) {
    char *text = scripted_broker_retained(set->broker, OWN);
    json_t *json = text != NULL ? json_loads(text, 0, NULL) : NULL;
    double started = json_number_value(json_object_get(json, "started"));
    json_decref(json);
    free(text);
    return started;
}

static bool is_online(void *context) {
    return started_of(context) > 0;
}

Test(state_kept, when_the_last_will_comes_late) {
    struct set set = {.rig = rig_new()};
    set.broker = scripted_broker_start(set.rig);
    rig_client_start(set.rig);
    scripted_broker_set(set.broker,
                        (struct scripted_rule){.on = SCRIPTED_CONNECT, .client = GATEWAY, .hold_will = true});
    rig_gateway_start(set.rig, NULL);
    rig_expect_state(set.rig);
    scripted_broker_disconnect(set.broker, GATEWAY, 0);
    scripted_expect_connects(set.broker, GATEWAY, 2);
    rig_expect_log_times(set.rig, ": connected", 2);
    cr_assert(rig_wait(is_online, &set, RIG_DEADLINE));
    size_t before = scripted_broker_publishes(set.broker, OWN, "online");
    scripted_broker_publish_will(set.broker, GATEWAY);
    scripted_expect_publishes(set.broker, OWN, "online", before + 1);
    cr_assert(rig_wait(is_online, &set, RIG_DEADLINE), "it is still said to be offline");
    scripted_broker_finish(set.broker);
}

// It was away, and the other has said that its device is connected to nobody. But the device has not noticed.
Test(state_kept, of_devices_whose_gateway_is_back) {
    struct set set = set_up("{" LISTED "}");
    struct rig *second = rig_beside(set.rig);
    scripted_broker_set(
        set.broker, (struct scripted_rule){
                        .on = SCRIPTED_CONNECT, .client = "second", .from = 2, .times = 1, .reason = 0x88});
    give_van_to_second(set.rig, second);
    scripted_broker_disconnect(set.broker, "second", 0);
    rig_expect(set.rig, VAN_42 "/connected", "false");
    scripted_expect_retained(set.broker, "trackbus/" VAN_42 "/connected", "true");
    scripted_expect_retained(set.broker, "trackbus/" VAN_42 "/instance", "\"second\"");
    scripted_broker_finish(set.broker);
}

Test(state_kept, last_will_is_a_second_late) {
    struct set set = set_up(NULL);
    cr_assert_eq(scripted_broker_connect_at(set.broker, GATEWAY, 0)->will_delay, 1);
    scripted_broker_finish(set.broker);
}

// It is given all again.
static void lose_all_and_be_slow(struct scripted_broker *broker) {
    scripted_broker_set(
        broker, (struct scripted_rule){
                    .on = SCRIPTED_SUBSCRIBE, .client = GATEWAY, .topic = OWN "/#", .retained_delay = 700});
    scripted_broker_stop(broker);
    scripted_broker_restart(broker, SCRIPTED_FORGETS);
    scripted_expect_retained(broker, "trackbus/" VAN_STATE "/connected", "true");
    scripted_expect_retained(broker, "trackbus/" VAN_STATE "/telemetry/event.enum", "2");
}

// What it then says of the instance is what was published just now, and no sign that it has kept the rest.
Test(state_kept, when_a_slow_broker_has_lost_all) {
    struct set set = set_up(NULL);
    wake(set.rig, VAN);
    rig_expect(set.rig, VAN_STATE "/connected", "true");
    rig_expect(set.rig, INSTANCE "/queue", NULL);
    rig_expect(set.rig, GENERATION, NULL); // by which it knows what the broker had
    lose_all_and_be_slow(set.broker);
    scripted_broker_finish(set.broker);
}

// Nor is it what was under way to the one that has lost all.
Test(state_kept, when_a_slow_broker_has_lost_all_while_the_generation_was_under_way) {
    struct set set = set_up(NULL);
    int unanswered = scripted_broker_set(
        set.broker,
        (struct scripted_rule){.on = SCRIPTED_PUBLISH, .topic = "trackbus/" GENERATION, .delay = 60000});
    wake(set.rig, VAN);
    rig_expect(set.rig, VAN_STATE "/connected", "true");
    scripted_expect_hits(set.broker, unanswered, 1);
    scripted_broker_unset(set.broker, unanswered);
    lose_all_and_be_slow(set.broker);
    scripted_broker_finish(set.broker);
}

// A broker that does not keep the order of what is under way at once. Values change faster than it answers.
Test(state_kept, when_the_broker_changes_the_order_of_writes) {
    struct set set = set_up("{'telemetry_interval':0}");
    int rule = scripted_broker_set(set.broker, (struct scripted_rule){.on = SCRIPTED_PUBLISH,
                                                                      .client = GATEWAY,
                                                                      .topic = "trackbus/state/#",
                                                                      .swap = true,
                                                                      .delay = 300});
    int devices[FLEET];
    for (int i = 0; i < FLEET; i++)
        devices[i] = rig_tcp(set.rig);
    for (int round = 1; round < 20; round++)
        for (int i = 0; i < FLEET; i++) {
            char text[160];
            snprintf(text, sizeof text, "MT;6;%s;R0;%d+1901091200%02d+%d.5+%d.25+%d+%d+2+37%02d+%d\r\n",
                     ident_of(i), 5 + round, 10 + round, 20 + round, 110 + round, round, 10 * round, round,
                     round);
            device_send(devices[i], text);
        }
    scripted_expect_retained(set.broker, "trackbus/state/gw/devices/866425031400005/telemetry/message.seqnum",
                             "19");
    scripted_expect_retained(set.broker,
                             "trackbus/state/gw/devices/866425031400000/telemetry/battery.voltage", "3.719");
    close(devices[0]);
    scripted_expect_retained(set.broker, "trackbus/state/gw/devices/866425031400000/connected", "false");
    cr_assert_eq(scripted_broker_hits(set.broker, rule), 0, "two writes to one topic were under way");
    scripted_broker_finish(set.broker);
}

// Somebody who writes on and on costs one message a second.
Test(state_kept, is_put_right_once_a_second) {
    struct set set = set_up(NULL);
    wake(set.rig, VAN);
    const char *topic = "trackbus/" VAN_STATE "/telemetry/event.enum";
    scripted_expect_retained(set.broker, topic, "2");
    scripted_expect_publishes(set.broker, OWN "/generation", NULL, 1);
    scripted_expect_subscribes(set.broker, GATEWAY, "trackbus/state/gw/devices/+/telemetry/#", 1);
    size_t before = scripted_broker_publishes(set.broker, topic, NULL);
    for (int64_t end = rig_clock() + 3000, next = rig_clock(); rig_clock() < end; next += 20) {
        scripted_broker_publish(set.broker, topic, "17", true);
        rig_wait_until(next);
    }
    scripted_expect_retained(set.broker, topic, "2");
    size_t times = scripted_broker_publishes(set.broker, topic, "2") - before;
    cr_assert(times >= 2 && times <= 6, "%zu times", times);
    scripted_broker_finish(set.broker);
}

// What a gateway publishes itself never comes back to it, and what another one publishes of telemetry neither.
Test(state_kept, costs_no_telemetry_of_others) {
    struct set set = set_up(NULL);
    static const char all[] = "trackbus/state/gw/devices/+/telemetry/#";
    struct rig *second = rig_beside(set.rig);
    scripted_expect_subscribes(set.broker, GATEWAY, all, 1);
    cr_assert(scripted_broker_subscribe_at(set.broker, GATEWAY, all, 0)->no_local);
    cr_assert_eq(scripted_broker_subscribe_at(set.broker, GATEWAY, all, 0)->retain_handling, 2);
    rig_gateway_start(second, "{'mqtt':{'client_id':'second'},'commands':{'intake':false}}");
    rig_expect(set.rig, "state/gw/instances/second/channels/1", NULL);
    wake(second, CAR);
    scripted_expect_subscribes(set.broker, "second", "trackbus/state/gw/devices/" CAR "/telemetry/#", 1);
    wake(set.rig, VAN);
    scripted_expect_subscribes(set.broker, GATEWAY, "trackbus/state/gw/devices/" VAN "/telemetry/#", 1);
    cr_assert_eq(scripted_broker_subscribes(set.broker, "second", all), 0);
    cr_assert_eq(
        scripted_broker_subscribes(set.broker, GATEWAY, "trackbus/state/gw/devices/" CAR "/telemetry/#"), 0);
    scripted_broker_finish(set.broker);
}

#define WATCHES_ALL "trackbus/state/gw/devices/+/telemetry/#"
#define WATCHES_VAN "trackbus/state/gw/devices/" VAN "/telemetry/#"

// With a second gateway, the first one watches the van alone.
static struct set watching_van(struct rig **second) {
    struct set set = set_up(NULL);
    wake(set.rig, VAN);
    scripted_expect_subscribes(set.broker, GATEWAY, WATCHES_ALL, 1);
    *second = rig_beside(set.rig);
    rig_gateway_start(*second, "{'mqtt':{'client_id':'second'},'commands':{'intake':false}}");
    scripted_expect_subscribes(set.broker, GATEWAY, WATCHES_VAN, 1);
    return set;
}

struct said {
    struct rig *rig;
    const char *text;
};

static bool was_said(void *context) {
    const struct said *said = context;
    char path[128], line[512];
    bool found = false;
    snprintf(path, sizeof path, "%s/broker.log", said->rig->directory);
    FILE *log = fopen(path, "r");
    while (log != NULL && !found && fgets(line, sizeof line, log) != NULL)
        found = strstr(line, said->text) != NULL;
    if (log != NULL)
        fclose(log);
    return found;
}

static void expect_said(struct rig *rig, const char *text) {
    struct said said = {rig, text};
    cr_assert(rig_wait(was_said, &said, RIG_DEADLINE), "the broker did not hear '%s'", text);
}

// The broker keeps the session: what is no longer wanted when the gateway is back is taken out of it.
Test(state_kept, session_that_was_kept_loses_what_is_no_longer_watched) {
    struct rig *second;
    struct set set = watching_van(&second);
    int away = scripted_broker_set(
        set.broker, (struct scripted_rule){.on = SCRIPTED_CONNECT, .client = GATEWAY, .reason = 0x88});
    scripted_broker_disconnect(set.broker, GATEWAY, 0);
    scripted_expect_ended(set.broker, GATEWAY);
    rig_gateway_stop(second);
    scripted_broker_unset(set.broker, away);
    scripted_expect_subscribes(set.broker, GATEWAY, WATCHES_ALL, 2);
    expect_said(set.rig, GATEWAY " > UNSUBSCRIBE " WATCHES_VAN);
    scripted_broker_finish(set.broker);
}

// Also what an earlier run has left in it.
Test(state_kept, session_of_an_earlier_run_loses_what_is_no_longer_watched) {
    struct rig *second;
    struct set set = watching_van(&second);
    rig_gateway_kill(set.rig);
    rig_gateway_stop(second);
    rig_gateway_start(set.rig, NULL);
    scripted_expect_subscribes(set.broker, GATEWAY, WATCHES_ALL, 2);
    expect_said(set.rig, GATEWAY " > UNSUBSCRIBE " WATCHES_VAN);
    scripted_broker_finish(set.broker);
}

// An earlier run has said it of a channel that is gone. The broker tells that again while nothing can be published.
Test(state_kept, channel_that_is_gone_is_cleared_after_a_full_outbox) {
    struct set set = set_up("{'store':{'max_bytes':1048576},'messages':['devices'],'telemetry':'off'}");
    int van = rig_tcp(set.rig);
    scripted_broker_publish(set.broker, OWN "/channels/7", "{\"id\":7,\"connections\":3}", true);
    scripted_broker_set(set.broker, (struct scripted_rule){
                                        .on = SCRIPTED_PUBLISH, .topic = "trackbus/message/#", .delay = 20});
    scripted_broker_stop(set.broker);
    for (int i = 0; i < 4000; i++)
        device_send(van, report(VAN, i));
    rig_expect_log(set.rig, "the outbox is full");
    scripted_broker_restart(set.broker, SCRIPTED_RETAINED);
    scripted_expect_retained(set.broker, OWN "/channels/7", NULL);
    scripted_broker_finish(set.broker);
}

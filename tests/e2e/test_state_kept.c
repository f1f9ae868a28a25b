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
        char topic[96], value[16];
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
    rig_gateway_start(rig, "{'home_assistant':{'enabled':true}}");
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
    expect_to_grow(rig, 0);
    rig_broker_save(rig);
    long saved = generation_of(rig);
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
    cr_assert(!device_has_bytes(van), "the command was sent again");
    finish(rig);
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
    expect_to_grow(rig, 0);
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

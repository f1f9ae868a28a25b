// Entries of pending commands that no gateway wrote, or that are put back: they are not executed.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/e2e/command_life.h"

TestSuite(command_signed, .fini = rig_clean, .timeout = 120);
TestSuite(command_signed_3_1_1, .fini = rig_clean, .timeout = 120);

#define QUEUE_OF(ident) "state/gw/devices/" ident "/commands-queue"
#define ENDS            4000000000 // a time far away
#define WRONG           "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void topic_of(char topic[128], const char *ident, int64_t id) {
    snprintf(topic, 128, "state/gw/devices/%s/commands-queue/%lld", ident, (long long)id);
}

// A valid entry, of which signature (or "") is added.
static void forge(struct rig *rig, const char *ident, int64_t id, const char *name, const char *signature) {
    char topic[128], text[512];
    topic_of(topic, ident, id);
    snprintf(
        text, sizeof text,
        "{\"id\":%lld,\"name\":\"%s\",\"properties\":{},\"created\":%lld,\"expires\":%lld,"
        "\"max_attempts\":3,\"state\":\"queued\",\"device_id\":%s,\"response_topic\":\"answers/forged\"%s}",
        (long long)id, name, (long long)time(NULL), (long long)ENDS, ident, signature);
    rig_publish_retained(rig, topic, text);
}

// What comes to the device next, so that nothing came before it.
static void expect_next(struct rig *rig, int device) {
    rig_publish(rig, TO_VAN, "light,1#");
    device_expect(device, "light,1#");
    device_send(device, "light=Success!\r\n");
    expect_step(rig, VAN, "custom", "processed", "{'executed':true}");
}

static char *standing(struct rig *rig, const char *ident, int64_t id) {
    char topic[128];
    topic_of(topic, ident, id);
    json_t *entry = rig_expect_standing_json(rig, topic, "{'state':'queued'}");
    char *text = json_dumps(entry, JSON_COMPACT);
    json_decref(entry);
    return text;
}

static void expect_cleared(struct rig *rig, int64_t id) {
    char topic[128];
    topic_of(topic, VAN, id);
    rig_expect_standing(rig, topic, NULL);
}

// Two with one key: only the one that takes commands in clears it, and what waits goes on.
STORY(command_signed, forged_ones_are_cleared_by_one_of_two_gateways) {
    rig_share_key();
    struct rig *rig = rig_up(NULL), *second = rig_beside(rig);
    rig_gateway_start(second, "{'mqtt':{'client_id':'second'},'commands':{'intake':false}}");
    rig_expect_state(second);
    int64_t id = queue_command(rig, VAN, "reboot", REBOOT);
    free(standing(rig, VAN, id));
    forge(rig, VAN, 17, "factoryreset", "");
    rig_expect_log(second, "commands-queue/17: ignored: no gateway has signed it");
    rig_expect_log(rig, "commands-queue/17: ignored: no gateway has signed it; clearing it");
    expect_cleared(rig, 17);
    cr_assert(!rig_log_has(second, "clearing it"));
    int device = wake(second, VAN);
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!\r\n");
    expect_step(rig, VAN, "reboot", "processed", "{'executed':true}");
    cr_assert(rig_log_count(rig, "clearing it") == 1);
    finish(rig);
    device_expect_no_more(device);
}

STORY(command_signed, forged_ones_are_not_executed) {
    struct rig *rig = rig_with_broker(NULL);
    forge(rig, VAN, 17, "factoryreset", ""); // before its start
    rig_gateway_start(rig, NULL);
    rig_expect_state(rig);
    int device = wake(rig, VAN);
    forge(rig, VAN, 18, "factoryreset", "");
    forge(rig, VAN, 19, "factoryreset", ",\"signature\":\"" WRONG "\"");
    expect_next(rig, device);
    expect_none(rig, "/answers/forged");
    rig_expect_log(rig, "commands-queue/17: ignored: no gateway has signed it; clearing it");
    rig_expect_log(rig, "commands-queue/18: ignored: no gateway has signed it; clearing it");
    rig_expect_log(rig, "commands-queue/19: ignored: it was not signed with the key of this gateway");
    expect_cleared(rig, 17);
    expect_cleared(rig, 18);
    free(standing(rig, VAN, 19));                      // it may be another gateway's
    cr_assert(!rig_log_has(rig, "commands.key_file")); // it is alone
    rig_finish(rig);
    device_expect_no_more(device);
}

// It neither ends, nor is taken for sent, nor does it get another response topic; and it can be canceled.
STORY(command_signed, forged_ones_change_no_command) {
    static const char *const states[] = {"processed", "canceled", "sent"};
    struct rig *rig = rig_up(NULL);
    int64_t id = queue_command(rig, VAN, "reboot", REBOOT);
    char topic[128], text[128];
    topic_of(topic, VAN, id);
    char *right = strdup(rig_message_at(rig, topic, 0)->payload);
    for (size_t i = 0; i < 3; i++) {
        json_t *entry = rig_expect_standing_json(rig, topic, "{'state':'queued','attempts':0}");
        json_object_set_new(entry, "state", json_string(states[i]));
        json_object_set_new(entry, "attempts", json_integer(1));
        json_object_set_new(entry, "response_topic", json_string("answers/forged"));
        char *forged = json_dumps(entry, JSON_COMPACT);
        rig_publish_retained(rig, topic, forged);
        rig_expect_standing(rig, topic, right);
        free(forged);
        json_decref(entry);
    }
    free(right);
    snprintf(text, sizeof text, "commands-queue/%lld: ignored: it was not signed", (long long)id);
    rig_expect_log_times(rig, text, 3);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    rig_publish_retained(rig, topic, "");
    expect_step(rig, VAN, "reboot", "canceled", NULL);
    expect_next(rig, device);
    expect_none(rig, "/answers/forged");
    finish(rig);
    device_expect_no_more(device);
}

struct put_back {
    const char *clock;
    bool live; // while the gateway runs, once it has forgotten what it may; else before it starts
    const char *said;
};

static void put_back(struct rig *rig, int64_t id, const char *entry, const struct put_back *it) {
    char topic[128];
    topic_of(topic, VAN, id);
    rig_gateway_stop(rig);
    if (!it->live)
        rig_publish_retained(rig, topic, entry);
    rig->clock = it->clock;
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, ": connected");
    int device = wake(rig, VAN);
    if (it->live) {
        queue_command(rig, CAR, "rconf", "{\"name\":\"rconf\",\"ttl\":1}");
        expect_step(rig, CAR, "rconf", "expired", NULL); // so it has swept
        rig_publish_retained(rig, topic, entry);
    }
    expect_next(rig, device);
    rig_expect_log(rig, it->said);
    rig_expect_standing(rig, topic, NULL);
}

STORY(command_signed, one_that_is_put_back_does_not_run_again) {
    static const char long_ago[] = "ended long ago, but somebody has put it back; clearing it";
    static const struct put_back cases[] = {
        // Longer than an hour after the end, when it could still wait for its device.
        {.clock = "+4000s", .said = "but the broker still retained it; clearing it"},
        {.clock = "+8000s", .live = true, .said = long_ago},
        {.clock = "+4000s", .said = long_ago}, // the disk knows that too
    };
    struct rig *rig = rig_up_at("+0s", NULL);
    int64_t id = queue_command(rig, VAN, "reboot", "{\"name\":\"reboot\",\"ttl\":7200}");
    char *entry = standing(rig, VAN, id);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!\r\n");
    expect_step(rig, VAN, "reboot", "processed", "{'executed':true}");
    rig_expect_none_retained(rig, ALL_PENDING);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        put_back(rig, id, entry, &cases[i]);
    expect_steps(rig, VAN, "sent", 4);
    expect_steps(rig, VAN, "expired", 0);
    free(entry);
    rig_finish(rig);
}

// An earlier version did not sign: what it has left in the broker is known from the disk.
STORY(command_signed, entries_of_an_earlier_version_go_on) {
    struct rig *rig = rig_up(NULL);
    int64_t id = queue_command(rig, VAN, "reboot", REBOOT), ended = queue_command(rig, CAR, "reboot", REBOOT);
    char topic[128], car[128];
    topic_of(topic, VAN, id);
    topic_of(car, CAR, ended);
    json_t *waits = rig_expect_standing_json(rig, topic, "{'state':'queued'}");
    char *over = standing(rig, CAR, ended);
    rig_publish_retained(rig, car, "");
    expect_step(rig, CAR, "reboot", "canceled", NULL);
    rig_gateway_stop(rig);
    char *before = json_dumps(waits, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(16));
    json_object_del(waits, "signature");
    char *unsigned_ = json_dumps(waits, JSON_COMPACT);
    rig_publish_retained(rig, topic, unsigned_);
    json_t *stale = json_loads(over, 0, NULL);
    json_object_del(stale, "signature");
    char *bare = json_dumps(stale, JSON_COMPACT);
    rig_publish_retained(rig, car, bare);
    rig_gateway_start(rig, NULL);
    rig_expect_state(rig);
    rig_expect_log(rig, "ignored: no gateway has signed it");
    rig_expect_standing(rig, topic, before);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!\r\n");
    rig_expect_none_retained(rig, ALL_PENDING);
    finish(rig);
    json_decref(waits);
    json_decref(stale);
    free(unsigned_);
    free(before);
    free(over);
    free(bare);
}

// Two that do not have the same key: the other one says what helps, and the first one delivers.
STORY(command_signed, without_a_common_key_the_log_says_what_helps) {
    struct rig *rig = rig_up(NULL), *second = rig_beside(rig);
    rig_gateway_start(second, "{'mqtt':{'client_id':'second'},'commands':{'intake':false}}");
    rig_expect_log(second, ": connected");
    rig_expect_state(second);
    int64_t id = queue_command(rig, VAN, "reboot", REBOOT);
    rig_expect_log(second, "set commands.key_file to the same key for all gateways on the broker");
    int before = wake(second, VAN), device = wake(rig, VAN);
    device_expect_closed(before); // without having had it
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!\r\n");
    expect_entry(rig, VAN, id, NULL);
    cr_assert(rig_log_count(second, "commands.key_file") == 1);
    finish(rig);
}

// The life of commands; see command_life.h.
#include "tests/e2e/command_life.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/commands/signature.h"

#define LIFE_WAIT 40000 // milliseconds

static int next_seqnum(void) {
    static int seqnum = 100;
    return ++seqnum;
}

void talk(struct rig *rig, int device, const char *ident) {
    char subset[96];
    int seqnum = next_seqnum();
    snprintf(subset, sizeof subset, "{'ident':'%s','message.seqnum':%d}", ident, seqnum);
    device_send(device, report(ident, seqnum));
    rig_expect(rig, "message/gw/devices/+", subset);
}

int wake(struct rig *rig, const char *ident) {
    int device = rig_tcp(rig);
    talk(rig, device, ident);
    return device;
}

int wake_udp(struct rig *rig, const char *ident) {
    int device = rig_udp(rig);
    talk(rig, device, ident);
    return device;
}

static int64_t id_of(const struct rig_message *message) {
    json_t *entry = json_of(message);
    int64_t id = json_integer_value(json_object_get(entry, "id"));
    json_decref(entry);
    return id;
}

int64_t expect_step(struct rig *rig, const char *ident, const char *name, const char *step,
                    const char *subset) {
    char topic[160];
    snprintf(topic, sizeof topic, "log/gw/devices/%s/commands-queue/%s/%s", ident, name, step);
    return id_of(rig_expect(rig, topic, subset));
}

struct emptied {
    struct rig *rig;
    const char *topic;
};

static bool is_emptied(void *context) {
    const struct emptied *emptied = context;
    size_t count = rig_count(emptied->rig, emptied->topic);
    return count > 0 && rig_message_at(emptied->rig, emptied->topic, count - 1)->length == 0;
}

void expect_entry(struct rig *rig, const char *ident, int64_t id, const char *subset) {
    char topic[160];
    struct emptied emptied = {.rig = rig, .topic = topic};
    snprintf(topic, sizeof topic, "state/gw/devices/%s/commands-queue/%lld", ident, (long long)id);
    if (subset != NULL)
        rig_expect(rig, topic, subset);
    else
        cr_assert(rig_wait(is_emptied, &emptied, RIG_DEADLINE), "%s is not emptied", topic);
}

const char *signed_entry(const char *topic, const char *entry) {
    static char text[1024];
    const struct command_secret secret = {.bytes = RIG_KEY, .length = strlen(RIG_KEY)};
    const char *key = topic + strlen("state/gw/");
    json_t *json = json_loads(entry, 0, NULL);
    char *name = strndup(key, (size_t)(strstr(key, "/commands-queue") - key));
    if (json_is_object(json))
        command_signature_set(json, name, &secret);
    char *whole = json_is_object(json) ? json_dumps(json, JSON_COMPACT) : strdup(entry);
    snprintf(text, sizeof text, "%s", whole);
    json_decref(json);
    free(name);
    free(whole);
    return text;
}

int64_t queue_command(struct rig *rig, const char *ident, const char *name, const char *command) {
    char topic[96];
    snprintf(topic, sizeof topic, "command/gw/devices/%s", ident);
    rig_publish(rig, topic, command);
    int64_t id = expect_step(rig, ident, name, "queued", NULL);
    expect_entry(rig, ident, id, "{'state':'queued'}");
    return id;
}

// An entry may come twice: those of one attempt count once.
static size_t count_different(struct rig *rig, const char *topic) {
    json_t *seen = json_object();
    const struct rig_message *message;
    for (size_t next = 0; (message = rig_next(rig, topic, &next)) != NULL;) {
        char key[64];
        json_t *entry = json_of(message);
        snprintf(key, sizeof key, "%lld %lld", (long long)json_integer_value(json_object_get(entry, "id")),
                 (long long)json_integer_value(json_object_get(entry, "attempts")));
        json_object_set_new(seen, key, json_true());
        json_decref(entry);
    }
    size_t count = json_object_size(seen);
    json_decref(seen);
    return count;
}

void expect_steps(struct rig *rig, const char *ident, const char *step, size_t count) {
    char topic[160];
    snprintf(topic, sizeof topic, "log/gw/devices/%s/commands-queue/+/%s", ident, step);
    size_t came = count_different(rig, topic);
    cr_assert(came == count, "%zu log entries '%s' of %s, expected %zu", came, step, ident, count);
}

struct handing_over {
    struct rig *rig;
    size_t before;
};

static bool is_handed_over(void *context) {
    const struct handing_over *handing_over = context;
    rig_gateway_signal(handing_over->rig, SIGUSR1);
    return rig_log_count(handing_over->rig, "outbox: 0 messages") > handing_over->before;
}

void expect_handed_over(struct rig *rig) {
    struct handing_over handing_over = {.rig = rig, .before = rig_log_count(rig, "outbox: 0 messages")};
    cr_assert(rig_wait(is_handed_over, &handing_over, RIG_DEADLINE), "the broker does not take all messages");
}

void expect_none(struct rig *rig, const char *filter) {
    if (rig->gateway != 0)
        expect_handed_over(rig);
    rig_count_retained(rig, "no/such/topic"); // the answer comes behind what the broker has for us
    size_t count = rig_count(rig, filter);
    cr_assert(count == 0, "%zu messages on %s, expected none", count, filter);
}

void expect_passed(struct rig *rig) {
    static const char other[] = "866425030000017";
    int device = wake(rig, other);
    rig_publish(rig, "command/gw/devices/866425030000017", "rconf,1#");
    device_expect(device, "rconf,1#");
    device_send(device, "rconf=a,b,c,1,6,30,V1,GSM\r\n");
    expect_step(rig, other, "custom", "processed", "{'executed':true}");
    close(device);
}

// --- all lives ---

struct life {
    int64_t id;
    bool queued, sent_after_end;
    int ends[3]; // processed, expired, canceled
};

struct lives {
    struct rig *rig;
    struct life *items;
    size_t count;
};

static struct life *life_of(struct lives *lives, int64_t id) {
    for (size_t i = lives->count; i > 0; i--)
        if (lives->items[i - 1].id == id)
            return &lives->items[i - 1];
    lives->items = realloc(lives->items, (lives->count + 1) * sizeof *lives->items);
    lives->items[lives->count] = (struct life){.id = id};
    return &lives->items[lives->count++];
}

static void add_step(struct lives *lives, const struct rig_message *message) {
    static const char *const ends[] = {"processed", "expired", "canceled"};
    const char *step = strrchr(message->topic, '/') + 1;
    struct life *life = life_of(lives, id_of(message));
    bool ended = life->ends[0] + life->ends[1] + life->ends[2] > 0;
    life->queued = life->queued || strcmp(step, "queued") == 0;
    life->sent_after_end = life->sent_after_end || (ended && strcmp(step, "sent") == 0);
    for (size_t i = 0; i < 3; i++)
        life->ends[i] += strcmp(step, ends[i]) == 0;
}

static void read_lives(struct lives *lives) {
    static const char *const filters[] = {"log/gw/devices/+/commands-queue/+/+",
                                          "log/gw/channels/+/+/commands-queue/+/+"};
    const struct rig_message *message;
    lives->count = 0;
    for (size_t f = 0; f < 2; f++)
        for (size_t next = 0; (message = rig_next(lives->rig, filters[f], &next)) != NULL;)
            add_step(lives, message);
}

static bool all_ended(void *context) {
    struct lives *lives = context;
    read_lives(lives);
    for (size_t i = 0; i < lives->count; i++)
        if (lives->items[i].ends[0] + lives->items[i].ends[1] + lives->items[i].ends[2] == 0)
            return false;
    return true;
}

static void check_life(const struct life *life, bool repeated) {
    int kinds = 0, times = 0;
    for (size_t i = 0; i < 3; i++) {
        kinds += life->ends[i] > 0;
        times += life->ends[i];
    }
    cr_assert(kinds == 1 && (repeated || times == 1),
              "command %lld was processed %d times, expired %d times, canceled %d times", (long long)life->id,
              life->ends[0], life->ends[1], life->ends[2]);
    cr_assert(!life->sent_after_end, "command %lld was sent after its end", (long long)life->id);
}

void check_lives(struct rig *rig, bool repeated) {
    struct lives lives = {.rig = rig};
    bool ended = rig_wait(all_ended, &lives, LIFE_WAIT);
    cr_assert(ended, "a command has no end");
    cr_assert(lives.count > 0, "there was no command");
    for (size_t i = 0; i < lives.count; i++)
        check_life(&lives.items[i], repeated);
    free(lives.items);
    rig_expect_none_retained(rig, ALL_PENDING);
}

void finish(struct rig *rig) {
    check_lives(rig, false);
    rig_finish(rig);
}

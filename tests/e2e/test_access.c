// The access list that gateway/README.md gives, in a real Mosquitto: each user can do what the page says that it is
// for, and nothing else.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/e2e/command_life.h"
#include "tests/pages.h"

TestSuite(access, .fini = rig_clean, .timeout = 120);

#define GATEWAY                                                                                              \
    "{'mqtt':{'username':'trackbus','password':'x'},'home_assistant':{'enabled':true,'unknown_devices':"     \
    "true}}"

// The block of the page; *length without the line end behind it.
static const char *list_of_page(int *length) {
    static const char before[] = "for Mosquitto's `acl_file`:\n\n```\n";
    const struct page *page = page_find("gateway/README.md");
    const char *start = strstr(page->text, before);
    cr_assert(start != NULL, "the page has no access list");
    start += strlen(before);
    *length = (int)(strstr(start, "\n```") - start);
    return start;
}

// With the rig's own user, who may do everything.
static void write_list(struct rig *rig) {
    char text[4096];
    int length = 0;
    const char *list = list_of_page(&length);
    snprintf(text, sizeof text, "%.*s\n\nuser " RIG_USER "\ntopic readwrite #\n", length, list);
    rig_write_file(rig, "acl", text);
}

Test(access, the_broker_of_the_container_has_the_pages_list) {
    char text[4096];
    int length = 0;
    const char *list = list_of_page(&length);
    FILE *file = fopen(TEST_ROOT "/docker/acl", "r");
    cr_assert(file != NULL);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    const char *start = strstr(text, "\nuser ");
    cr_assert(start != NULL && (int)strlen(start) == length + 2 &&
                  strncmp(start + 1, list, (size_t)length) == 0,
              "docker/acl has other lines than gateway/README.md");
}

static struct rig *up(void) {
    struct rig *rig = rig_new();
    char lines[160];
    write_list(rig);
    snprintf(lines, sizeof lines, "max_queued_messages 100000\nacl_file %s/acl\n", rig->directory);
    rig_broker_start(rig, lines);
    rig_client_start(rig);
    return rig;
}

// Runs a command of a shell; out is good until the next call. Returns its exit code.
static int shell(char **out, const char *command) {
    static char text[16384];
    FILE *process = popen(command, "r");
    cr_assert(process != NULL);
    size_t length = fread(text, 1, sizeof text - 1, process);
    text[length] = '\0';
    *out = text;
    int status = pclose(process);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// --- which topics ---

static const struct place {
    const char *topic;             // whole
    const char *readers, *writers; // users by letters: trackbus, dashboard, homeassistant, sender, fleet
} places[] = {
    {"trackbus/message/gw/devices/7", "tdh", "t"},
    {"trackbus/message/gw/channels/1/van", "tdh", "t"},
    {"trackbus/state/gw/devices/7", "tdhsf", "t"},
    {"trackbus/state/gw/devices/7/connected", "tdhsf", "t"},
    {"trackbus/state/gw/devices/7/telemetry/position", "tdhsf", "t"},
    {"trackbus/state/gw/instances/x", "tdhsf", "t"},
    {"trackbus/state/gw/devices/7/commands-queue/9", "tdhsf", "ts"}, // to cancel
    {"trackbus/state/gw/channels/1/van/commands-queue/9", "tdhsf", "ts"},
    {"trackbus/log/gw/devices/7/commands-queue/rconf/processed", "tdsf", "t"},
    {"trackbus/log/gw/channels/1/error", "tdsf", "t"},
    {"trackbus/command/gw/devices/7", "t", "ths"},
    {"trackbus/command/gw/channels/1/van", "t", "ths"},
    {"trackbus/registry/gw/devices/van", "tf", "tf"},
    {"homeassistant/status", "th", "th"},
    {"homeassistant/device/x/config", "th", "th"},
    {"answers/1", "s", "ts"},
};
#define PLACES (sizeof places / sizeof places[0])

static const struct user {
    char letter;
    const char *name;
} users[] = {
    {'t', "trackbus"}, {'d', "dashboard"}, {'h', "homeassistant"}, {'s', "dispatcher"}, {'f', "fleet"}};
#define USERS (sizeof users / sizeof users[0])

static bool has_line(const char *text, const char *line) {
    size_t length = strlen(line);
    for (const char *at = text; (at = strstr(at, line)) != NULL; at += length)
        if ((at == text || at[-1] == '\n') && at[length] == '\n')
            return true;
    return false;
}

Test(access, users_read_what_they_should) {
    struct rig *rig = up();
    for (size_t i = 0; i < PLACES; i++) {
        char topic[128];
        snprintf(topic, sizeof topic, "/%s", places[i].topic);
        rig_publish_retained(rig, topic, "x");
    }
    for (size_t u = 0; u < USERS; u++) {
        char call[256], *out;
        snprintf(call, sizeof call, "mosquitto_sub -p %d -u %s -P x -t '#' -F %%t --retained-only -W 3 2>&1",
                 rig->broker_port, users[u].name);
        shell(&out, call);
        for (size_t i = 0; i < PLACES; i++) {
            bool may = strchr(places[i].readers, users[u].letter) != NULL;
            cr_expect(has_line(out, places[i].topic) == may, "%s %s read %s", users[u].name,
                      may ? "cannot" : "can", places[i].topic);
        }
    }
    rig->finished = true;
}

static void publish_as(struct rig *rig, const char *user, const char *topic, const char *text) {
    char call[256], *out;
    snprintf(call, sizeof call, "mosquitto_pub -V 5 -q 1 -p %d -u %s -P x -t %s -m '%s' 2>&1",
             rig->broker_port, user, topic, text);
    shell(&out, call);
}

static void expect_to_write(struct rig *rig, const struct user *user, const struct place *place) {
    char topic[128];
    snprintf(topic, sizeof topic, "/%s", place->topic);
    size_t before = rig_count(rig, topic);
    bool may = strchr(place->writers, user->letter) != NULL;
    publish_as(rig, user->name, place->topic, user->name);
    publish_as(rig, RIG_USER, place->topic, "behind it");
    rig_expect_count(rig, topic, before + (may ? 2 : 1));
    bool came = strcmp(rig_message_at(rig, topic, before)->payload, user->name) == 0;
    cr_assert(came == may, "%s %s write to %s", user->name, may ? "cannot" : "can", place->topic);
}

Test(access, users_write_what_they_should) {
    struct rig *rig = up();
    for (size_t u = 0; u < USERS; u++)
        for (size_t i = 0; i < PLACES; i++)
            expect_to_write(rig, &users[u], &places[i]);
    rig->finished = true;
}

// --- what people do ---

// With the subcommands of trackbus; they hear of the broker and the user by the environment.
static int as_user(struct rig *rig, const char *user, const char *arguments, char **out) {
    char call[512];
    snprintf(call, sizeof call,
             "TRACKBUS_MQTT_URL=mqtt://127.0.0.1:%d TRACKBUS_MQTT_USERNAME=%s TRACKBUS_MQTT_PASSWORD=x "
             "timeout 20 " TRACKBUS_BINARY " %s 2>&1",
             rig->broker_port, user, arguments);
    return shell(out, call);
}

static void publish_retained_as(struct rig *rig, const char *user, const char *topic, const char *payload) {
    char call[256], *out;
    snprintf(call, sizeof call, "mosquitto_pub -V 5 -q 1 -r -p %d -u %s -P x -t %s %s 2>&1", rig->broker_port,
             user, topic, payload);
    shell(&out, call);
}

static struct rig *up_with_gateway(void) {
    struct rig *rig = up();
    rig_gateway_start(rig, GATEWAY);
    rig_expect_state(rig);
    return rig;
}

Test(access, the_gateway_may_do_all_that_it_does) {
    struct rig *rig = up_with_gateway();
    int device = wake(rig, VAN);
    rig_request(rig, TO_VAN, "mode,6,60#", "answers/of/rig", NULL);
    device_expect(device, "mode,6,60#");
    device_send(device, "mode=Success!\r\n");
    rig_expect(rig, "/answers/of/rig", "{'executed':true}");
    rig_expect(rig, "/homeassistant/+/+/+/config", NULL);
    rig_gateway_stop(rig);
    rig_gateway_start(rig, GATEWAY); // now its second connection reads what is retained
    rig_expect_state(rig);
    finish(rig);
    cr_assert(!rig_log_has(rig, "rejected") && !rig_log_has(rig, "Not authorized"));
    cr_assert(rig_log_count(rig, "set aside") == 0);
}

// The gateway's user may not read answers: the log tells what becomes of a command.
Test(access, the_gateways_own_user_sends_in_a_short_time_as_well) {
    struct rig *rig = up_with_gateway();
    char *out;
    wake(rig, VAN);
    json_decref(rig_expect_standing_json(rig, "/trackbus/state/gw/devices/" VAN, "{'protocol_id':1}"));
    int code = as_user(rig, "trackbus", "send --wait 2 " VAN " rconf,1#", &out);
    cr_assert(code == 3 && strstr(out, "sent       custom") != NULL, "%d: %s", code, out);
    cr_assert(strstr(out, "may this user read answers/#?") != NULL, "%s", out);
    rig->finished = true;
}

Test(access, the_dispatcher_sends_sees_and_cancels) {
    struct rig *rig = up_with_gateway();
    char *out, call[256];
    cr_assert(as_user(rig, "dispatcher", "send --wait 5 " VAN " rconf,1#", &out) == 3, "%s", out);
    cr_assert(strstr(out, "queued     custom") != NULL, "%s", out);
    int64_t id = expect_step(rig, VAN, "custom", "queued", NULL);
    snprintf(call, sizeof call,
             "mosquitto_sub -p %d -u dispatcher -P x -v -C 1 -W 15 -t "
             "'trackbus/state/gw/devices/+/commands-queue/+'",
             rig->broker_port);
    cr_assert(shell(&out, call) == 0 && strstr(out, "\"state\":\"queued\"") != NULL, "%s", out);
    snprintf(call, sizeof call,
             "mosquitto_pub -p %d -u dispatcher -P x -q 1 -r -n -t trackbus/state/gw/devices/" VAN
             "/commands-queue/%lld",
             rig->broker_port, (long long)id);
    cr_assert(shell(&out, call) == 0);
    expect_step(rig, VAN, "custom", "canceled", NULL);
    finish(rig);
}

Test(access, who_names_devices_adds_and_removes_them) {
    struct rig *rig = up_with_gateway();
    publish_retained_as(rig, "dispatcher", "trackbus/registry/gw/devices/" VAN, "-m '{}'");
    publish_retained_as(rig, "fleet", "trackbus/registry/gw/devices/" CAR, "-m '{\"id\":42}'");
    json_decref(rig_expect_standing_json(rig, "state/gw/devices/42", "{'ident':'" CAR "'}"));
    publish_retained_as(rig, "fleet", "trackbus/registry/gw/devices/" CAR, "-n");
    rig_expect_standing(rig, "state/gw/devices/42", NULL);
    cr_assert(rig_count_retained(rig, "state/gw/devices/+") == 0);
    rig_finish(rig);
}

// --- the settings that the page recommends ---

// "KEY": VALUE as the table of who may do what writes it, with ' in place of ".
static char *setting_of_page(const char *key) {
    static char texts[2][64];
    static size_t next;
    const struct page *page = page_find("gateway/README.md");
    const char *table = strstr(page->text, "| with the settings recommended here |");
    const char *end = table != NULL ? strstr(table, "\n\n") : NULL;
    char quoted[48], *text = texts[next++ % 2];
    snprintf(quoted, sizeof quoted, "`\"%s\": ", key);
    const char *found = end != NULL ? strstr(table, quoted) : NULL;
    cr_assert(found != NULL && found < end, "the table recommends no %s", key);
    snprintf(text, sizeof texts[0], "%.*s", (int)strcspn(found + 1, "`"), found + 1);
    for (char *quote; (quote = strchr(text, '"')) != NULL;)
        *quote = '\'';
    return text;
}

// A stranger is turned away, and cannot take the place of a device that is connected.
Test(access, the_recommended_settings_do_what_the_page_says) {
    char changes[256];
    snprintf(changes, sizeof changes, "{'devices':[{'ident':'" VAN "','id':42}],%s,'limits':{%s}}",
             setting_of_page("unknown_devices"), setting_of_page("takeover"));
    struct rig *rig = rig_up(changes);
    int van = rig_tcp(rig), stranger = rig_tcp(rig), thief = rig_tcp(rig);
    device_send(van, report(VAN, 1));
    rig_expect(rig, "message/gw/devices/42", "{'message.seqnum':1}");
    device_send(stranger, report(CAR, 1));
    rig_expect(rig, "log/gw/channels/1/connections/+/closed", "{'close_code':13}");
    device_expect_closed(stranger);
    device_send(thief, report(VAN, 2));
    rig_expect(rig, "log/gw/channels/1/connections/+/closed", "{'close_code':12}");
    device_expect_closed(thief);
    device_send(van, report(VAN, 3));
    rig_expect(rig, "message/gw/devices/42", "{'message.seqnum':3}");
    cr_expect_eq(rig_count(rig, "message/gw/devices/42"), 2);
    cr_expect_eq(rig_count(rig, "message/gw/channels/1/" CAR), 0);
    rig_finish(rig);
}

Test(access, the_dashboard_watches_and_sends_nothing) {
    struct rig *rig = up_with_gateway();
    char *out;
    cr_assert(as_user(rig, "dashboard", "send --wait 10 " VAN " rconf,1#", &out) == 1, "%s", out);
    cr_assert(strstr(out, "the broker does not take the command: Not authorized") != NULL, "%s", out);
    int device = wake(rig, VAN);
    expect_none(rig, "log/gw/devices/+/commands-queue/#");
    rig_finish(rig);
    device_expect_no_more(device);
}

// flespi's HTTP API as its clients call it: who may, what comes, and what is refused.
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/http_client.h"
#include "tests/e2e/rig.h"

TestSuite(flespi_api, .fini = rig_clean);

static int port;
static char token[200]; // the header, "" for none

static struct rig *up(const char *changes) {
    struct rig *rig = rig_up(changes);
    port = http_page_port(rig);
    rig_expect_log(rig, ", the page: connected"); // it does not hear of what was reported before
    *token = '\0';
    return rig;
}

// Percent signs for what does not stand in a path; ? and & stay.
static char *coded(const char *path) {
    static char line[20000];
    size_t used = 0;
    for (; *path != '\0' && used < sizeof line - 4; path++)
        if (strchr(" {}\"<>|'%^`\\", *path) != NULL)
            used += (size_t)sprintf(line + used, "%%%02X", (unsigned char)*path);
        else
            line[used++] = *path;
    line[used] = '\0';
    return line;
}

// The body of an answer, which may come in chunks.
static const char *body_of(const char *answer) {
    static char body[20000];
    const char *start = strstr(answer, "\r\n\r\n");
    size_t used = 0, size;
    if (start == NULL)
        return "";
    if (strstr(answer, "Transfer-Encoding: chunked") == NULL)
        return start + 4;
    for (start += 4; sscanf(start, "%zx", &size) == 1 && size > 0; start += size + 2) {
        start = strstr(start, "\r\n") + 2;
        cr_assert(used + size < sizeof body && strlen(start) > size, "%s", answer);
        memcpy(body + used, start, size);
        used += size;
    }
    body[used] = '\0';
    return body;
}

// The answer as JSON, for the caller to release; *status is its status.
static json_t *ask(const char *method, const char *path, const char *body, int *status) {
    char *line = NULL;
    cr_assert_gt(asprintf(&line, "%s /gw/%s", method, coded(path)), 0);
    const char *answer = http_ask(port, line, token, body);
    *status = 0;
    sscanf(answer, "HTTP/1.1 %d", status);
    json_t *json = json_loads(body_of(answer), 0, NULL);
    cr_assert(json_is_object(json), "%s: %s", line, answer);
    free(line);
    return json;
}

// Of a list in the answer each item contains what part says of it.
static bool contains(const json_t *whole, const json_t *part) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)part, name, value) {
        const json_t *own = json_object_get(whole, name);
        bool same =
            json_array_size(own) == json_array_size(value) && (json_is_array(own) || !json_is_array(value));
        for (size_t i = 0; same && i < json_array_size(value); i++)
            same = contains(json_array_get(own, i), json_array_get(value, i));
        if (!same || (!json_is_array(value) && (own == NULL || !rig_json_contains(own, value))))
            return false;
    }
    return json_is_object(whole);
}

// The answer has that status and contains what subset says; it is taken over.
static bool is_right(json_t *answer, int got, int status, const char *subset) {
    json_t *part = rig_json(subset);
    bool right = got == status && contains(answer, part);
    json_decref(answer);
    json_decref(part);
    return right;
}

static bool says(const char *path, int status, const char *subset) {
    int got;
    json_t *answer = ask("GET", path, "", &got);
    return is_right(answer, got, status, subset);
}

static void fail_with(const char *path, int status, const char *subset) {
    int got;
    char *text = json_dumps(ask("GET", path, "", &got), 0);
    cr_assert_fail("%s: expected %d with %s, got %d: %s", path, status, subset, got, text);
}

// The whole result is that: nothing more, and nothing less.
static void expect_result(const char *path, const char *result) {
    int status;
    json_t *whole = ask("GET", path, "", &status), *wanted = rig_json(result);
    if (status != 200 || !json_equal(json_object_get(whole, "result"), wanted))
        fail_with(path, 200, result);
    json_decref(whole);
    json_decref(wanted);
}

static void expect(const char *path, int status, const char *subset) {
    if (!says(path, status, subset))
        fail_with(path, status, subset);
}

struct wanted {
    const char *path, *subset;
};

static bool says_now(void *context) {
    const struct wanted *wanted = context;
    return says(wanted->path, 200, wanted->subset);
}

static void expect_soon(const char *path, const char *subset) {
    struct wanted wanted = {path, subset};
    if (!rig_wait(says_now, &wanted, RIG_DEADLINE))
        fail_with(path, 200, subset);
}

// Asked once: a second time it would be sent again.
static void expect_post(const char *path, const char *body, int status, const char *subset) {
    int got;
    json_t *answer = ask("POST", path, body, &got);
    char *text = json_dumps(answer, 0);
    cr_assert(is_right(answer, got, status, subset), "%s: expected %d with %s, got %d: %s", path, status,
              subset, got, text);
    free(text);
}

// --- what there is ---

#define FLEET                                                                                                \
    "'devices': [{'ident': '" VAN "', 'id': 42, 'name': 'Van 1', 'type_id': 825}, {'ident': '" CAR           \
    "', 'id': 43, 'name': 'Car'}]"

static void expect_devices(void) {
    expect_soon("devices/all?fields=id,connected", "{'result': [{'id': 42, 'connected': true}, {'id': 43}]}");
    expect_result("devices/42?fields=id,name,configuration,device_type_id,protocol_id,channel_id,connected",
                  "[{'id': 42, 'name': 'Van 1', 'configuration': {'ident': '" VAN
                  "'}, 'device_type_id': 825, 'protocol_id': 1, 'channel_id': 1, 'connected': true}]");
    expect_result("devices/43,42?fields=id", "[{'id': 43}, {'id': 42}]");
    expect_result("devices/configuration.ident=8664*,connected=true?fields=name", "[{'name': 'Van 1'}]");
    expect_result("devices/{name==\"Car\"||id==7}?fields=id,cid", "[{'id': 43}]");
    expect_result("devices/name=Lorry", "[]");
    expect("devices/42,7?fields=id", 200,
           "{'result': [{'id': 42}], 'errors': [{'code': 404, 'id': 7, 'reason': 'there is no such item'}]}");
    expect("devices/7", 404, "{'result': [], 'errors': [{'code': 404, 'id': 7}]}");
    expect("devices/42,43?fields=id&limit=1&offset=1", 200,
           "{'result': [{'id': 43}], 'pagination': {'count': 2, 'limit': 1, 'offset': 1}}");
}

static void expect_channels_and_protocols(void) {
    expect_soon("channels/all", "{'result': [{'id': 1, 'protocol_name': 'mictrack'}]}");
    expect("channels/protocol_name=magicyo", 200, "{'result': []}");
    expect_result("channel-protocols/1?fields=id,name,title",
                  "[{'id': 1, 'name': 'mictrack', 'title': 'Mictrack MT821, MT825'}]");
    expect_soon("channel-protocols/{name==\"mictrack\"}?fields=message_parameters", "{'result': [{}]}");
    expect_result("channel-protocols/all/device-types/825?fields=protocol_id", "[{'protocol_id': 1}]");
    expect("channel-protocols/2/device-types/825", 404, "{'errors': [{'id': 825}]}");
}

static void expect_telemetry(void) {
    expect_soon(
        "devices/42/telemetry/battery.voltage",
        "{'result': [{'id': 42, 'telemetry': {'battery.voltage': {'value': 3.744, 'ts': 1547025483}}}]}");
    expect_result("devices/42/telemetry/position,ident",
                  "[{'id': 42, 'telemetry': {'ident': {'ts': 1547025483, 'value': '" VAN
                  "'}, 'position': {'ts': 1547025483, 'value': {'direction': 69, 'latitude': 22.63827, "
                  "'longitude': 114.02922, 'satellites': 10, 'speed': 2.14, 'valid': true}}}}]");
    expect("devices/all/telemetry/all", 200, "{'result': [{}, {}]}");
}

Test(flespi_api, tells_what_the_page_knows) {
    struct rig *rig = up("{'web': {'listen': '127.0.0.1:0'}, " FLEET "}");
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    expect_devices();
    expect_channels_and_protocols();
    expect_telemetry();
    close(device);
    rig_finish(rig);
}

// --- messages ---

static void report_at(int device, const char *time, const char *latitude) {
    char text[200];
    snprintf(text, sizeof text, "MT;6;" VAN ";R0;10+%s+%s+114.02922+2.14+69+2+3744+113\r\n", time, latitude);
    device_send(device, text);
}

#define MESSAGES "devices/42/messages?data="

static void expect_messages(void) {
    expect_result(MESSAGES "{\"count\":1,\"reverse\":true,\"fields\":\"timestamp\"}",
                  "[{'timestamp': 1547025603}]");
    expect_result(MESSAGES "{\"count\":2,\"fields\":\"timestamp\"}",
                  "[{'timestamp': 1547025483}, {'timestamp': 1547025543}]");
    expect_result(MESSAGES "{\"from\":1547025484,\"to\":1547025543,\"fields\":\"position.latitude\"}",
                  "[{'position.latitude': 8.41}]");
    expect_result(MESSAGES
                  "{\"filter\":\"position.latitude<9\",\"fields\":\"position.latitude,position.longitude\"}",
                  "[{'position.latitude': 8.41, 'position.longitude': 114.02922}]");
    expect_result(MESSAGES "{\"filter\":\"position.altitude,position.latitude\"}", "[]");
    expect_result("devices/42/messages?fields=timestamp&limit=1", "[{'timestamp': 1547025483}]");
    expect_result("devices/42/messages?fields=ident&limit=1&data={\"fields\":\"timestamp\"}",
                  "[{'timestamp': 1547025483}]");
    expect(MESSAGES "{\"from\":0,\"to\":0,\"count\":0}", 200, "{'result': [{'ident': '" VAN "'}, {}, {}]}");
    expect("devices/all/messages", 200, "{'result': [{}, {}, {'device.name': 'Van 1'}]}");
}

// That nothing is known of a device is not that it has no values.
static void expect_what_is_known_without_the_broker(struct rig *rig) {
    rig_broker_kill(rig);
    rig_expect_log(rig, ", the page: The connection was lost; retrying");
    expect_result("devices/42/telemetry/position.latitude",
                  "[{'id': 42, 'telemetry': {'position.latitude': {'ts': 1547025603, 'value': 9.95}}}]");
    expect("devices/43/telemetry/all", 503, "{'errors': [{'code': 503}]}");
    expect("devices/42,43/telemetry/all", 503, "{'errors': [{'code': 503}]}");
    rig_broker_start(rig, NULL);
}

Test(flespi_api, gives_messages_by_time) {
    struct rig *rig = up("{'web': {'listen': '127.0.0.1:0'}, " FLEET "}");
    int device = rig_tcp(rig);
    report_at(device, "190109091803", "22.63827");
    report_at(device, "190109092003", "9.95");
    report_at(device, "190109091903", "8.41");
    expect_soon("devices/42/messages", "{'result': [{}, {}, {}]}");
    expect_messages();
    // As the device meant it, and not 9.949999999999999.
    http_expect_soon(port, "GET /gw/devices/42/telemetry/position.latitude", "",
                     "{\"ts\":1547025603,\"value\":9.95}");
    http_expect_soon(port, "GET /api/devices/42", "", "\"position.latitude\":{\"value\":9.95,");
    close(device);
    expect_what_is_known_without_the_broker(rig);
    rig_finish(rig);
}

// Whole messages of other devices push those of this one out; where it was stays known.
Test(flespi_api, messages_that_are_forgotten_leave_the_trail) {
    char payload[200];
    struct rig *rig = up("{'web': {'listen': '127.0.0.1:0'}, " FLEET "}");
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    expect_soon(MESSAGES "{\"fields\":\"message.seqnum\"}", "{'result': [{'message.seqnum': 1}]}");
    for (int i = 0; i < 2500; i++) {
        snprintf(payload, sizeof payload, "{\"ident\":\"" CAR "\",\"device.id\":43,\"timestamp\":%d}",
                 1600000000 + i);
        rig_publish_soon(rig, "message/gw/devices/43", payload);
        rig_publish_soon(rig, "message/gw/channels/1/" CAR, payload);
    }
    expect_soon("devices/43/messages?data={\"count\":1,\"reverse\":true,\"fields\":\"timestamp\"}",
                "{'result': [{'timestamp': 1600002499}]}");
    expect_result(MESSAGES "{}",
                  "[{'battery.voltage': 3.744, 'device.id': 42, 'device.name': 'Van 1', "
                  "'device.type.id': 825, 'ident': '" VAN "', 'position.latitude': 22.63827, "
                  "'position.longitude': 114.02922, 'position.speed': 2.1, 'timestamp': 1547025483}]");
    close(device);
    rig_finish(rig);
}

// --- commands, and who may ---

static void add_token(struct rig *rig) {
    char path[128], command[500], text[100] = "";
    rig_write_config(rig, "{'web': {'users_file': 'users'}}", path, sizeof path);
    snprintf(command, sizeof command, "cd %s && %s web -c %s --add-token fleet 2>token.log", rig->directory,
             TRACKBUS_BINARY, path);
    FILE *process = popen(command, "r");
    cr_assert(fgets(text, sizeof text, process) != NULL && pclose(process) == 0);
    text[strcspn(text, "\n")] = '\0';
    cr_assert_eq(strlen(text), 64, "%s", text);
    snprintf(token, sizeof token, "Authorization: FlespiToken %s\r\n", text);
}

static bool file_has(const struct rig *rig, const char *name, const char *text) {
    char path[200], content[1000] = "";
    snprintf(path, sizeof path, "%s/%s", rig->directory, name);
    FILE *file = fopen(path, "re");
    cr_assert_not_null(file, "%s", path);
    size_t length = fread(content, 1, sizeof content - 1, file);
    content[length] = '\0';
    fclose(file);
    return strstr(content, text) != NULL;
}

static void start_with_token(struct rig *rig) {
    char changes[600];
    add_token(rig);
    cr_assert(file_has(rig, "users", "fleet:$token$"));
    cr_assert_not(file_has(rig, "users", strstr(token, "Token ") + strlen("Token ")));
    snprintf(changes, sizeof changes,
             "{'web': {'listen': '127.0.0.1:0', 'users_file': '%s/users', 'commands': true}, " FLEET "}",
             rig->directory);
    rig_gateway_start(rig, changes);
    rig_expect_state(rig);
    port = http_page_port(rig);
}

#define QUEUE "devices/42/commands-queue"

static void expect_commands(struct rig *rig, int device) {
    expect_post(QUEUE, "[{\"name\":\"mode\",\"properties\":{}}]", 400,
                "{'errors': [{'code': 400, 'faults': [{'path': 'properties'}]}]}");
    expect_post(QUEUE, "[{", 400, "{'errors': [{'code': 400}]}");
    expect_post("devices/42,7/commands-queue", "\"where?\"", 404, "{'errors': [{'code': 404}]}");
    expect_post(QUEUE, "[{\"name\":\"mode\",\"properties\":{\"mode\":6,\"interval\":60}}]", 200,
                "{'result': [{'name': 'mode', 'device_id': 42, 'meta': {'user': 'fleet'}}]}");
    device_expect(device, "mode,6,60#");
    expect_post("devices/all/commands-queue", "\"where?\"", 200,
                "{'result': [{'name': 'custom'}, {'name': 'custom'}]}");
    rig_expect(rig, "log/gw/devices/43/commands-queue/custom/queued", NULL); // it is away
    expect_soon("devices/43/commands-queue/all", "{'result': [{'name': 'custom', 'device_id': 43}]}");
    expect("devices/43/commands-queue", 200, "{'result': [{'meta': {'user': 'fleet'}}]}");
    expect("devices/43/commands-queue/1", 404, "{'errors': [{'id': 1}]}");
    expect_result("devices/43/commands-queue/name=mode", "[]");
}

static void expect_nothing_without_the_token(struct rig *rig) {
    char right[sizeof token];
    strcpy(right, token);
    strcpy(token, "Authorization: FlespiToken 0123\r\n");
    expect("devices/all", 401, "{'errors': [{'code': 401, 'reason': 'The token is wrong.'}]}");
    *token = '\0';
    expect("devices/all", 401, "{'errors': [{'code': 401, 'reason': 'log in first'}]}");
    expect_post(QUEUE, "\"where?\"", 401, "{'errors': [{'code': 401}]}");
    rig_expect_log(rig, "a login from 127.0.0.1 failed: no such token");
    snprintf(token, sizeof token, "%sOrigin: http://evil.example\r\n", right);
    expect_post(QUEUE, "\"where?\"", 403, "{'errors': [{'code': 403}]}");
    strcpy(token, right);
    http_expect(port, "GET /api/devices", token, "", 200, "["); // it is a user like any other
}

// One of the tokens of a file is taken out of it.
static void expect_an_end_of_the_token(struct rig *rig) {
    rig_write_file(rig, "users", "fleet:$token$00\n");
    http_expect_soon(port, "GET /gw/devices/all", token, "401 ");
    for (int i = 0; i < 5; i++)
        says("devices/all", 401, "{}");
    expect("devices/all", 429, "{'errors': [{'code': 429}]}");
}

Test(flespi_api, commands_need_the_token_of_a_user) {
    struct rig *rig = rig_with_broker(NULL);
    start_with_token(rig);
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    expect_soon("devices/all?fields=id,connected", "{'result': [{'id': 42, 'connected': true}, {'id': 43}]}");
    expect_nothing_without_the_token(rig);
    expect_commands(rig, device);
    expect_an_end_of_the_token(rig);
    close(device);
    rig_finish(rig);
}

// A broker that takes commands for 42 alone.
static struct rig *with_a_choosy_broker(void) {
    char extra[256];
    struct rig *rig = rig_new();
    snprintf(extra, sizeof extra, "acl_file %s/acl\n" RIG_BROKER_LIMITS, rig->directory);
    rig_write_file(rig, "acl",
                   "topic read #\n" // of the gateway, which has no name
                   "topic write trackbus/state/#\n"
                   "topic write trackbus/log/#\n"
                   "topic write trackbus/command/gw/devices/42\n"
                   "user " RIG_USER "\n"
                   "topic read #\n");
    rig_broker_start(rig, extra);
    rig_client_start(rig);
    return rig;
}

// Who sends it again sends it to those alone.
Test(flespi_api, says_which_devices_commands_were_not_sent_to) {
    struct rig *rig = with_a_choosy_broker();
    start_with_token(rig);
    expect_soon("devices/all?fields=id", "{'result': [{}, {}]}");
    expect_post("devices/42,43/commands-queue", "\"where?\"", 200,
                "{'result': [{'device_id': 42}], 'errors': [{'code': 502, 'id': 43}]}");
    expect_post("devices/43/commands-queue", "\"where?\"", 502,
                "{'result': [], 'errors': [{'code': 502, 'id': 43}]}");
    expect_post(QUEUE, "\"where?\"", 200, "{'result': [{'device_id': 42}]}");
    rig_finish(rig);
}

// --- what makes no sense ---

static void expect_refused(const char *start, const char *filler, size_t count, const char *end) {
    char *path = calloc(1, strlen(start) + strlen(filler) * count + strlen(end) + 1),
         *next = stpcpy(path, start);
    for (size_t i = 0; i < count; i++)
        next = stpcpy(next, filler);
    strcpy(next, end);
    expect(path, 400, "{'errors': [{'code': 400}]}");
    free(path);
}

Test(flespi_api, what_makes_no_sense_is_refused_with_a_reason) {
    static const char *const paths[] = {"devices/{",
                                        "devices/name=",
                                        "devices/1;2",
                                        "devices/all?limit=-1",
                                        "devices/all?offset=x",
                                        "devices/{{{{name}}}}/telemetry/all",
                                        "devices/x=1/messages?data=[",
                                        "devices/all/messages?data=[]",
                                        "devices/all/messages?data=7",
                                        "devices/all/messages?data={\"from\":\"today\"}",
                                        "devices/all/messages?data={\"count\":-1}",
                                        "devices/all/messages?data={\"reverse\":1}",
                                        "devices/all/messages?data={\"fields\":[]}",
                                        "devices/all/messages?data={\"filter\":\"((\"}",
                                        "devices/all/messages?data={\"generalize\":60}",
                                        "channels/!",
                                        "channel-protocols/all/device-types/*"};
    struct rig *rig = up("{'web': {'listen': '127.0.0.1:0', 'commands': true}}");
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        expect(paths[i], 400, "{'errors': [{'code': 400}]}");
    expect_refused("devices/", "{", 1000, "");
    expect_refused("devices/1", ",1", 400, ",");
    expect_refused("devices/{name==\"", "x", 2000, "\"}");
    expect_refused("devices/all/messages?data=", "[", 700, "");
    expect_refused("devices/all?fields=", ",", 101, "");
    expect_refused("devices/all?fields=", "id", 600, "");
    expect_refused("devices/all/telemetry/", ",", 101, "");
    expect_refused("devices/all/messages?data={\"fields\":\"", ",", 101, "\"}");
    expect("devices", 404, "{'errors': [{'code': 404}]}");
    expect("devices/all/", 404, "{'errors': [{'code': 404}]}");
    expect("devices/all/telemetry", 404, "{'errors': [{'code': 404}]}");
    expect("streams/all", 404, "{'errors': [{'code': 404}]}");
    expect_post("devices/all", "{}", 405, "{'errors': [{'code': 405, 'reason': 'this takes GET'}]}");
    expect_post("devices/all/commands-queue", "\"where?\"", 403, "{'errors': [{'code': 403}]}");
    rig_finish(rig);
}

// It is refused before anybody has looked whose path it is.
Test(flespi_api, what_is_too_large_is_refused_in_its_form) {
    static const char head[] =
        "POST /gw/devices/all/commands-queue HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 70000\r\n\r\n";
    struct rig *rig = up("{'web': {'listen': '127.0.0.1:0', 'commands': true}}");
    int client = http_connect(port);
    device_send(client, head);
    http_read_until(client, "{\"errors\":[{\"code\":413,\"reason\":\"the body is larger than 64 KiB\"}]}");
    close(client);
    rig_finish(rig);
}

static void publish_devices(struct rig *rig, int first, int last) {
    char topic[64], payload[200];
    for (int i = first; i <= last; i++) {
        snprintf(topic, sizeof topic, "state/gw/devices/%d", i);
        snprintf(payload, sizeof payload, "{\"id\":%d,\"ident\":\"86642500000%04d\",\"name\":\"<%d>\"}", i, i,
                 i);
        rig_publish_soon(rig, topic, payload);
    }
}

Test(flespi_api, many_devices_are_asked_for_in_parts) {
    struct rig *rig = up("{'web': {'listen': '127.0.0.1:0'}}");
    publish_devices(rig, 1, 51);
    expect_soon("devices/51?fields=name", "{'result': [{'name': '<51>'}]}");
    expect("devices/all?limit=50&fields=id", 200, "{'pagination': {'count': 51, 'limit': 50}}");
    expect("devices/all/telemetry/all", 400, "{'errors': [{'code': 400}]}");
    expect("devices/all/messages", 400, "{'errors': [{'code': 400}]}");
    expect("devices/all/commands-queue/all", 400, "{'errors': [{'code': 400}]}");
    expect("devices/{id<=50}/messages", 200, "{'result': []}");
    publish_devices(rig, 52, 1200);
    expect_soon("devices/1200?fields=name", "{'result': [{'name': '<1200>'}]}");
    expect("devices/all?limit=2&fields=id", 200,
           "{'result': [{}, {}], 'pagination': {'count': 1200, 'limit': 2}}");
    expect_result("devices/{id==700&&name==\"<700>\"}?fields=name", "[{'name': '<700>'}]");
    expect_result("devices/name=nobody", "[]");
    expect_result("devices/name=<3>,id=3/telemetry/all", "[{'id': 3, 'telemetry': {}}]");
    expect_result("devices/name=nobody/messages", "[]");
    expect("devices/{id>1149}/telemetry/all", 400, "{'errors': [{'code': 400}]}");
    expect_result("devices/{id==1150}/commands-queue", "[]");
    rig_finish(rig);
}

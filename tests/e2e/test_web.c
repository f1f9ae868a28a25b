// The page's server, by plain HTTP: who may ask for what, and what comes of it.
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/e2e/http_client.h"
#include "tests/e2e/rig.h"

TestSuite(web, .fini = rig_clean);

static struct rig *up(int *port) {
    struct rig *rig = rig_up("{'web': {'listen': '127.0.0.1:0'}}");
    *port = http_page_port(rig);
    return rig;
}

Test(web, shows_devices_gateways_and_metrics) {
    int port;
    struct rig *rig = up(&port);
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    http_expect_soon(port, "GET /api/devices", "", "\"ident\":\"" VAN "\"");
    http_expect_soon(port, "GET /api/devices/" VAN, "", "\"position.latitude\":{");
    // Retained before anybody looked: its age is known all the same.
    http_expect_soon(port, "GET /api/devices/" VAN, "",
                     "\"battery.voltage\":{\"value\":3.744,\"timestamp\":1547025483.000}");
    http_expect_soon(port, "GET /api/devices/" VAN "/track", "", "\"coordinates\":[[");
    http_expect_soon(port, "GET /api/devices/" VAN "/log", "", "/identified\"");
    http_expect_soon(port, "GET /api/gateways", "", "\"instance\":\"trackbus\"");
    http_expect_soon(port, "GET /metrics", "", "trackbus_instance_up{instance=\"trackbus\"} 1");
    http_expect_soon(port, "GET /metrics", "", "trackbus_loop_lag_seconds{instance=\"trackbus\"} 0");
    http_expect_soon(port, "GET /readyz", "", "200 OK");
    rig_expect(rig, INSTANCE "/metrics", "{'broker_up': true}");
    http_expect(port, "GET /api/devices/1", "", "", 404, "reason");
    http_expect(port, "GET /api/fields", "", "", 200, "position.latitude");
    http_expect(port, "GET /api/commands/mictrack", "", "", 200, "otastart");
    http_expect(port, "GET /api/openapi.json", "", "", 200, "\"3.1.0\"");
    http_expect(port, "PUT /api/devices", "", "", 405, "Allow: GET");
    http_expect(port, "GET /../../etc/passwd", "", "", 404, "reason");
    http_expect(port, "GET /%2e%2e/%2e%2e/etc/passwd", "", "", 404, "reason");
    http_expect(port, "GET /login.html", "", "", 404, "reason");
    http_expect(port, "POST /api/devices/" VAN "/commands", "", "\"rconf\"", 403, "reason");
    http_expect(port, "POST /api/devices/" VAN "/capture", "", "", 403, "captures are not allowed here");
    http_expect(port, "GET /", "", "", 200, "script-src 'self'");
    rig_expect_log(rig, ", the page: connected");
    rig_broker_kill(rig);
    rig_expect_log(rig, ", the page: The connection was lost; retrying");
    http_expect_soon(port, "GET /readyz", "", "503 ");
    http_expect(port, "GET /healthz", "", "", 200, "ok");
    close(device);
    rig_broker_start(rig, NULL);
    rig_finish(rig);
}

Test(web, a_name_that_is_not_this_machines_is_refused) {
    int port;
    struct rig *rig = up(&port);
    int descriptor = http_connect(port);
    device_send(descriptor, "GET /api/devices HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    device_expect(descriptor, "HTTP/1.1 403 ");
    close(descriptor);
    rig_finish(rig);
}

// anna with "a good password", as programs log in.
#define BASIC "Authorization: Basic YW5uYTphIGdvb2QgcGFzc3dvcmQ=\r\n"

static void add_user(struct rig *rig, const char *password) {
    char path[128], command[400];
    rig_write_config(rig, "{'web': {'users_file': 'users'}}", path, sizeof path);
    snprintf(command, sizeof command, "cd %s && echo '%s' | %s web -c %s --add-user anna >added 2>&1",
             rig->directory, password, TRACKBUS_BINARY, path);
    cr_assert_eq(system(command), 0);
}

// Logs in; writes the header with the session's cookie.
static void log_in(int port, char *cookie, size_t capacity) {
    const char *answer =
        http_ask(port, "POST /api/login", "", "{\"name\":\"anna\",\"password\":\"a good password\"}");
    const char *start = strstr(answer, "Set-Cookie: ");
    cr_assert(start != NULL && strstr(answer, "HttpOnly; SameSite=Strict") != NULL, "%s", answer);
    start += strlen("Set-Cookie: ");
    snprintf(cookie, capacity, "Cookie: %.*s\r\n", (int)strcspn(start, ";"), start);
}

// With a user; more keys of "web" follow, or "".
static struct rig *up_with_users(int *port, const char *more) {
    char changes[400];
    struct rig *rig = rig_with_broker(NULL);
    add_user(rig, "a good password");
    snprintf(changes, sizeof changes,
             "{'web': {'listen': '127.0.0.1:0', 'users_file': '%s/users', 'commands': true%s}}",
             rig->directory, more);
    rig_gateway_start(rig, changes);
    rig_expect_state(rig);
    *port = http_page_port(rig);
    return rig;
}

Test(web, nothing_without_a_login) {
    static const char *const paths[] = {
        "GET /api/devices", "GET /metrics",    "GET /readyz", "GET /style.css",
        "GET /app.js",      "GET /api/events", "GET /",       "GET /nothing"};
    int port;
    char cookie[256], with_origin[400];
    struct rig *rig = up_with_users(&port, "");
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        http_expect(port, paths[i], "Cookie: trackbus=0\r\n", "", 401, "");
    http_expect(port, "GET /healthz", "", "", 200, "ok");
    http_expect(port, "GET /metrics", BASIC, "", 200, "trackbus_instance_up");
    log_in(port, cookie, sizeof cookie);
    http_expect(port, "GET /api/devices", cookie, "", 200, "[");
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    rig_expect(rig, "message/gw/devices/" VAN, NULL);
    http_expect_soon(port, "GET /api/devices", cookie, VAN);
    http_expect(port, "POST /api/devices/" VAN "/commands", "", "\"where?\"", 401, "reason");
    snprintf(with_origin, sizeof with_origin, "%sOrigin: http://evil.example\r\n", cookie);
    http_expect(port, "POST /api/devices/" VAN "/commands", with_origin, "\"where?\"", 403, "reason");
    http_expect(port, "POST /api/devices/" VAN "/commands", cookie, "{\"name\":\"mode\",\"properties\":{}}",
                422, "\"path\":\"properties");
    http_expect(port, "POST /api/devices/" VAN "/commands", cookie,
                "{\"name\":\"mode\",\"properties\":{\"mode\":6,\"interval\":60}}", 202, "mark");
    device_expect(device, "mode,6,60#");
    close(device);
    rig_finish(rig);
}

// --- captures ---

#define CAPTURE "/api/devices/" VAN "/capture"

static void expect_bytes(int port, const char *cookie) {
    http_expect_soon(port, "GET " CAPTURE, cookie, "\"packet\":\"4d543b363b");
    http_expect_soon(port, "GET " CAPTURE, cookie, "/send\"}");
    const char *log = http_ask(port, "GET /api/devices/" VAN "/log", cookie, "");
    cr_assert(strstr(log, "/recv\"") == NULL, "bytes of a capture push entries out of the log: %s", log);
    http_expect(port, "GET /api/log", cookie, "", 200, "captures/started");
}

// A capture is begun and ended on the page, and shows what comes and goes.
Test(web, a_capture_is_begun_shown_and_ended) {
    int port;
    char cookie[256];
    struct rig *rig = up_with_users(&port, "");
    log_in(port, cookie, sizeof cookie);
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    http_expect_soon(port, "GET " CAPTURE, cookie, "{\"running\":[],\"chunks\":[]}");
    http_expect(port, "POST " CAPTURE, "", "", 401, "reason");
    http_expect(port, "POST " CAPTURE, cookie, "{\"seconds\":0}", 422, "from 1 to 3600");
    http_expect(port, "POST " CAPTURE, cookie, "{\"second\":5}", 422, "reason");
    http_expect(port, "POST /api/devices/1/capture", cookie, "", 404, "reason");
    http_expect(port, "POST " CAPTURE, cookie, "", 202, "{\"by\":\"web:anna\",\"seconds\":600}");
    rig_expect(rig, "log/gw/captures/started", "{'by': 'web:anna', 'device': '" VAN "', 'seconds': 600}");
    http_expect_soon(port, "GET /api/captures", cookie, "\"by\":\"web:anna\"");
    http_expect(port, "POST " CAPTURE, cookie, "{\"seconds\":900}", 202,
                "{\"by\":\"web:anna\",\"seconds\":900}");
    http_expect_soon(port, "GET /api/captures", cookie, "\"seconds\":900");
    device_send(device, report(VAN, 2));
    http_expect(port, "POST /api/devices/" VAN "/commands", cookie, "\"mode,6,60#\"", 202, "mark");
    device_expect(device, "mode,6,60#");
    expect_bytes(port, cookie);
    http_expect(port, "DELETE " CAPTURE, cookie, "", 200, "\"seconds\":0");
    rig_expect(rig, "log/gw/captures/ended", "{'by': 'web:anna', 'device': '" VAN "'}");
    http_expect_soon(port, "GET " CAPTURE, cookie, "{\"running\":[],\"chunks\":[{");
    http_expect(port, "GET /api/captures", cookie, "", 200, "[]");
    close(device);
    rig_finish(rig);
}

// --- the registry in the broker ---

#define LISTING "/api/registry/" VAN

static void expect_refused_listings(int port, const char *cookie) {
    http_expect(port, "PUT " LISTING, "", "{}", 401, "reason");
    http_expect(port, "PUT " LISTING, cookie, "{\"name\":5}", 422, "{\"path\":\"$.name\"");
    http_expect(port, "PUT " LISTING, cookie, "{\"nam\":\"x\"}", 422, "nam");
    http_expect(port, "PUT " LISTING, cookie, "[", 422, "expected JSON");
    http_expect(port, "PUT /api/registry/a%20b", cookie, "{}", 422, "is no ident");
    http_expect(port, "PUT " LISTING "%00425", cookie, "{}", 422, "is no ident");
    http_expect(port, "GET /healthz%00/x", cookie, "", 404, "reason");
    http_expect(port, "DELETE " LISTING, cookie, "", 404, "the broker's registry has no device");
}

// A stranger gets a name and an id on the page, and loses them again.
Test(web, a_device_comes_into_the_registry_and_goes) {
    int port;
    char cookie[256];
    struct rig *rig = up_with_users(&port, "");
    log_in(port, cookie, sizeof cookie);
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    http_expect_soon(port, "GET /api/devices/" VAN, cookie, "\"registry\":null}");
    expect_refused_listings(port, cookie);
    http_expect(port, "PUT " LISTING, cookie, "{\"name\":\"Van 1\",\"id\":42}", 202,
                "{\"ident\":\"" VAN "\"}");
    rig_expect(rig, "registry/gw/devices/" VAN, "{'id': 42, 'name': 'Van 1'}");
    rig_expect(rig, "state/gw/devices/42", "{'name': 'Van 1'}");
    http_expect_soon(port, "GET /api/devices/" VAN, cookie, "\"registry\":{\"id\":42,\"name\":\"Van 1\"}}");
    http_expect(port, "DELETE " LISTING, cookie, "", 202, VAN);
    http_expect_soon(port, "GET /api/devices/" VAN, cookie, "\"registry\":null}");
    close(device);
    rig_finish(rig);
}

// Begins an event stream; its head has come.
static int open_stream(int port, const char *headers) {
    char request[512];
    int stream = http_connect(port);
    snprintf(request, sizeof request,
             "GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n%s\r\n", headers);
    device_send(stream, request);
    device_expect(stream, "HTTP/1.1 200 ");
    return stream;
}

static bool has_ended(void *context) {
    char bytes[4096];
    ssize_t count = recv(*(int *)context, bytes, sizeof bytes, MSG_DONTWAIT);
    return count == 0;
}

Test(web, a_session_that_is_over_sees_and_sends_nothing_more) {
    int port;
    char cookie[256], second[256];
    struct rig *rig = up_with_users(&port, "");
    log_in(port, cookie, sizeof cookie);
    log_in(port, second, sizeof second);
    int mine = open_stream(port, cookie), other = open_stream(port, second);
    http_expect(port, "POST /api/logout", cookie, "", 200, "null");
    http_expect(port, "GET /api/devices", cookie, "", 401, "");
    cr_assert(rig_wait(has_ended, &mine, RIG_DEADLINE), "who has logged out still sees what happens");
    cr_assert(!has_ended(&other));
    http_expect(port, "GET /metrics", BASIC, "", 200, "trackbus_instance_up");
    add_user(rig, "another password");
    cr_assert(rig_wait(has_ended, &other, RIG_DEADLINE),
              "who logged in with the old password still looks on");
    http_expect(port, "GET /api/devices", second, "", 401, "");
    http_expect(port, "GET /metrics", BASIC, "", 401, "Name or password is wrong");
    close(mine);
    close(other);
    rig_finish(rig);
}

static void fail_to_log_in(int port, const char *headers, int status) {
    http_expect(port, "POST /api/login", headers, "{\"name\":\"anna\",\"password\":\"no\"}", status, "");
}

// What a client says of its address counts for nothing; a declared proxy is believed, and what it adds stands last.
Test(web, failed_logins_are_counted_by_address) {
    int port;
    char headers[200];
    struct rig *rig = up_with_users(&port, "");
    for (int i = 0; i < 6; i++) {
        snprintf(headers, sizeof headers, "X-Forwarded-For: 203.0.113.%d\r\n", i);
        fail_to_log_in(port, headers, i < 5 ? 401 : 429);
    }
    http_expect(port, "POST /api/login", "", "{\"name\":\"anna\",\"password\":\"a good password\"}", 429,
                "Retry-After");
    http_expect(port, "GET /metrics", BASIC, "", 429, "Too many failed logins");
    rig_expect_log(rig, "a login from 127.0.0.1 failed: wrong password of anna");
    rig_finish(rig);
}

Test(web, a_declared_proxy_says_the_address) {
    int port;
    char headers[200];
    struct rig *rig = up_with_users(&port, ", 'behind_proxy': true");
    for (int i = 0; i < 6; i++) {
        snprintf(headers, sizeof headers,
                 "X-Forwarded-For: 198.51.100.%d\r\nX-Forwarded-For: 198.51.100.%d, 203.0.113.9\r\n", i, i);
        fail_to_log_in(port, headers, i < 5 ? 401 : 429);
    }
    // One who has a network of IPv6 has more addresses than can be counted.
    for (int i = 0; i < 6; i++) {
        snprintf(headers, sizeof headers, "X-Forwarded-For: 2001:db8::%d:1\r\n", i);
        fail_to_log_in(port, headers, i < 5 ? 401 : 429);
    }
    fail_to_log_in(port, "X-Forwarded-For: 203.0.113.10\r\n", 401);
    http_expect(port, "POST /api/login", "X-Forwarded-For: 203.0.113.10\r\n",
                "{\"name\":\"anna\",\"password\":\"a good password\"}", 200, "anna");
    rig_finish(rig);
}

// An event stream that was cut goes on where it was; one that is of another run is told to read all anew.
Test(web, events_resume) {
    int port;
    struct rig *rig = up(&port);
    int stream = http_connect(port), again = http_connect(port);
    device_send(again, "GET /api/events?since=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    device_expect(again, "HTTP/1.1 200 ");
    device_send(stream, "GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    device_expect(stream, "HTTP/1.1 200 ");
    http_read_until(again, "event: reset");
    close(stream);
    close(again);
    rig_finish(rig);
}

// --- bad input ---

// Runs trackbus with these arguments, -c FILE behind them; what it said, good until the next call.
static const char *run(const char *words, const char *path, int *code) {
    static char said[4096];
    char command[512];
    snprintf(command, sizeof command, "timeout 30 %s %s -c %s 2>&1", TRACKBUS_BINARY, words, path);
    FILE *output = popen(command, "re");
    cr_assert_not_null(output);
    said[fread(said, 1, sizeof said - 1, output)] = '\0';
    *code = WEXITSTATUS(pclose(output));
    return said;
}

static void expect_refusal(struct rig *rig, const char *changes, const char *why, size_t count) {
    static const char *const commands[] = {"check", "web", "run"};
    char path[128];
    int code;
    rig_write_config(rig, changes, path, sizeof path);
    for (size_t i = 0; i < count; i++) {
        const char *said = run(commands[i], path, &code);
        cr_assert(code == 1 && strstr(said, why) != NULL, "%s, %s: expected %s, got %d and %s", commands[i],
                  changes, why, code, said);
    }
}

Test(web, check_finds_first_what_cannot_be_served) {
    static const struct {
        const char *web, *why;
    } faults[] = {
        {"{'web': {'listen': '0.0.0.0:0'}}", "$.web.listen: is \"0.0.0.0:0\", which others can reach"},
        {"{'web': {'listen': '[::]:0', 'users_file': 'users'}}", "expected web.cert_file and web.key_file"},
        {"{'web': {'listen': 'localhost:0'}}", "$.web.listen: "},
        {"{'web': {'listen': '192.0.2.1:0', 'users_file': 'users', 'behind_proxy': true}}",
         "$.web.listen: cannot listen on 192.0.2.1:0"},
        {"{'web': {'listen': '127.0.0.1:0', 'users_file': 'none'}}",
         "$.web.users_file: is \"none\", which cannot be read: No such file"},
        {"{'web': {'listen': '127.0.0.1:0', 'users_file': 'empty'}}", "which has no user; make one with"},
        {"{'web': {'listen': '127.0.0.1:0', 'cert_file': 'none', 'key_file': 'none'}}",
         "$.web.cert_file: is \"none\", which cannot be read: No such file"},
        {"{'web': {'listen': '127.0.0.1:0', 'cert_file': 'users', 'key_file': 'users'}}",
         "which does not go with web.key_file as PEM"},
        {"{'web': {'listen': '127.0.0.1:0', 'cert_file': 'users'}}",
         "$.web: has one of cert_file and key_file, expected both or none"},
    };
    struct rig *rig = rig_new();
    rig_broker_reserve(rig);
    add_user(rig, "a good password");
    rig_write_file(rig, "empty", "# nobody\n");
    cr_assert_eq(chdir(rig->directory), 0);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        expect_refusal(rig, faults[i].web, faults[i].why, i % 3 + 1);
    rig->finished = true;
}

Test(web, a_port_in_use_is_named) {
    char changes[128], path[128], note[128];
    int code, holder = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    cr_assert(bind(holder, (struct sockaddr *)&address, size) == 0 && listen(holder, 1) == 0 &&
              getsockname(holder, (struct sockaddr *)&address, &size) == 0);
    struct rig *rig = rig_new();
    rig_broker_reserve(rig);
    snprintf(changes, sizeof changes, "{'web': {'listen': '127.0.0.1:%d'}}", ntohs(address.sin_port));
    rig_write_config(rig, changes, path, sizeof path);
    snprintf(note, sizeof note,
             "warning: $.web.listen: \"127.0.0.1:%d\" is in use, perhaps by the gateway itself\n",
             ntohs(address.sin_port));
    cr_assert(strstr(run("check", path, &code), note) != NULL);
    cr_assert_eq(code, 0, "the gateway itself may be running");
    cr_assert(strstr(run("web", path, &code), "the port is in use") != NULL && code == 1);
    cr_assert(strstr(run("run", path, &code), "the port is in use") != NULL && code == 1);
    close(holder);
    rig->finished = true;
}

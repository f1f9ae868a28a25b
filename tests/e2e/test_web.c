// The page's server, by plain HTTP: who may ask for what, and what comes of it.
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/e2e/rig.h"

TestSuite(web, .fini = rig_clean);

#define ANSWER_MAX 65536

static int connect_to(int port) {
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval patience = {.tv_sec = 15};
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    cr_assert_eq(connect(descriptor, (const struct sockaddr *)&address, sizeof address), 0);
    return descriptor;
}

// Sends a request with these headers ("" or lines that end with \r\n) and body; returns the whole answer, good until the
// next call.
static const char *ask(int port, const char *line, const char *headers, const char *body) {
    static char answer[ANSWER_MAX];
    char request[4096];
    size_t length = 0;
    ssize_t count;
    int descriptor = connect_to(port);
    int size =
        snprintf(request, sizeof request,
                 "%s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %zu\r\n%s\r\n%s",
                 line, strlen(body), headers, body);
    cr_assert_eq(write(descriptor, request, (size_t)size), size);
    while (length < sizeof answer - 1 &&
           (count = read(descriptor, answer + length, sizeof answer - 1 - length)) > 0)
        length += (size_t)count;
    answer[length] = '\0';
    close(descriptor);
    return answer;
}

static void expect_answer(int port, const char *line, const char *headers, const char *body, int status,
                          const char *text) {
    const char *answer = ask(port, line, headers, body);
    int got = 0;
    sscanf(answer, "HTTP/1.1 %d", &got);
    cr_assert(got == status && strstr(answer, text) != NULL, "%s: expected %d with %s, got:\n%s", line,
              status, text, answer);
}

static struct rig *up(int port, const char *more) {
    char changes[512];
    snprintf(changes, sizeof changes, "{'web': {'listen': '127.0.0.1:%d'%s}}", port, more);
    struct rig *rig = rig_up(changes);
    return rig;
}

struct wanted {
    int port;
    const char *line, *text;
};

static bool has_text(void *context) {
    const struct wanted *wanted = context;
    return strstr(ask(wanted->port, wanted->line, "", ""), wanted->text) != NULL;
}

static void expect_soon(int port, const char *line, const char *text) {
    struct wanted wanted = {port, line, text};
    cr_assert(rig_wait(has_text, &wanted, RIG_DEADLINE), "%s: never says %s:\n%s", line, text,
              ask(port, line, "", ""));
}

Test(web, shows_devices_gateways_and_metrics) {
    int port = rig_free_port();
    struct rig *rig = up(port, "");
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    expect_soon(port, "GET /api/devices", "\"ident\":\"" VAN "\"");
    expect_soon(port, "GET /api/devices/" VAN, "\"position.latitude\":{");
    expect_soon(port, "GET /api/devices/" VAN "/track", "\"coordinates\":[[");
    expect_soon(port, "GET /api/devices/" VAN "/log", "/identified\"");
    expect_soon(port, "GET /api/gateways", "\"instance\":\"trackbus\"");
    expect_soon(port, "GET /metrics", "trackbus_instance_up{instance=\"trackbus\"} 1");
    expect_soon(port, "GET /readyz", "200 OK");
    rig_expect(rig, INSTANCE "/metrics", "{'broker_up': true}");
    expect_answer(port, "GET /api/devices/1", "", "", 404, "reason");
    expect_answer(port, "GET /api/fields", "", "", 200, "position.latitude");
    expect_answer(port, "GET /api/commands/mictrack", "", "", 200, "otastart");
    expect_answer(port, "GET /api/openapi.json", "", "", 200, "\"3.1.0\"");
    expect_answer(port, "PUT /api/devices", "", "", 405, "Allow: GET");
    expect_answer(port, "GET /../../etc/passwd", "", "", 404, "reason");
    expect_answer(port, "GET /%2e%2e/%2e%2e/etc/passwd", "", "", 404, "reason");
    expect_answer(port, "GET /login.html", "", "", 404, "reason");
    expect_answer(port, "POST /api/devices/" VAN "/commands", "", "\"rconf\"", 403, "reason");
    expect_answer(port, "GET /", "", "", 200, "script-src 'self'");
    rig_broker_kill(rig);
    expect_soon(port, "GET /readyz", "503 ");
    expect_answer(port, "GET /healthz", "", "", 200, "ok");
    close(device);
    rig_broker_start(rig, NULL);
    rig_finish(rig);
}

Test(web, a_name_that_is_not_this_machines_is_refused) {
    int port = rig_free_port();
    struct rig *rig = up(port, "");
    int descriptor = connect_to(port);
    device_send(descriptor, "GET /api/devices HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    device_expect(descriptor, "HTTP/1.1 403 ");
    close(descriptor);
    rig_finish(rig);
}

// anna logs in with the password "a good password".
static void add_user(struct rig *rig) {
    char path[128], command[400];
    rig_write_config(rig, "{'web': {'users_file': 'users'}}", path, sizeof path);
    snprintf(command, sizeof command,
             "cd %s && echo 'a good password' | %s web -c %s --add-user anna >added 2>&1", rig->directory,
             TRACKBUS_BINARY, path);
    cr_assert_eq(system(command), 0);
}

// Logs in; writes the header with the session's cookie.
static void log_in(int port, char *cookie, size_t capacity) {
    const char *answer =
        ask(port, "POST /api/login", "", "{\"name\":\"anna\",\"password\":\"a good password\"}");
    const char *start = strstr(answer, "Set-Cookie: ");
    cr_assert(start != NULL && strstr(answer, "HttpOnly; SameSite=Strict") != NULL, "%s", answer);
    start += strlen("Set-Cookie: ");
    snprintf(cookie, capacity, "Cookie: %.*s\r\n", (int)strcspn(start, ";"), start);
}

Test(web, nothing_without_a_login) {
    static const char *const paths[] = {
        "GET /api/devices", "GET /metrics",    "GET /readyz", "GET /style.css",
        "GET /app.js",      "GET /api/events", "GET /",       "GET /nothing"};
    int port = rig_free_port();
    char cookie[256], with_origin[400], changes[400];
    struct rig *rig = rig_with_broker(NULL);
    add_user(rig);
    snprintf(changes, sizeof changes,
             "{'web': {'listen': '127.0.0.1:%d', 'users_file': '%s/users', 'commands': true}}", port,
             rig->directory);
    rig_gateway_start(rig, changes);
    rig_expect_state(rig);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        expect_answer(port, paths[i], "Cookie: trackbus=0\r\n", "", 401, "");
    expect_answer(port, "GET /healthz", "", "", 200, "ok");
    expect_answer(port, "GET /metrics", "Authorization: Basic YW5uYTphIGdvb2QgcGFzc3dvcmQ=\r\n", "", 200,
                  "trackbus_instance_up");
    log_in(port, cookie, sizeof cookie);
    expect_answer(port, "GET /api/devices", cookie, "", 200, "[");
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    rig_expect(rig, "message/gw/devices/" VAN, NULL);
    expect_answer(port, "POST /api/devices/" VAN "/commands", "", "\"where?\"", 401, "reason");
    snprintf(with_origin, sizeof with_origin, "%sOrigin: http://evil.example\r\n", cookie);
    expect_answer(port, "POST /api/devices/" VAN "/commands", with_origin, "\"where?\"", 403, "reason");
    expect_answer(port, "POST /api/devices/" VAN "/commands", cookie, "{\"name\":\"mode\",\"properties\":{}}",
                  422, "\"path\":\"properties");
    expect_answer(port, "POST /api/devices/" VAN "/commands", cookie,
                  "{\"name\":\"mode\",\"properties\":{\"mode\":6,\"interval\":60}}", 202, "mark");
    device_expect(device, "mode,6,60#");
    for (int i = 0; i < 5; i++)
        expect_answer(port, "POST /api/login", "", "{\"name\":\"anna\",\"password\":\"no\"}", 401, "wrong");
    expect_answer(port, "POST /api/login", "", "{\"name\":\"anna\",\"password\":\"a good password\"}", 429,
                  "Retry-After");
    expect_answer(port, "POST /api/logout", cookie, "", 200, "null");
    expect_answer(port, "GET /api/devices", cookie, "", 401, "");
    close(device);
    rig_finish(rig);
}

Test(web, does_not_start_where_others_reach_it) {
    struct rig *rig = rig_new();
    rig_broker_reserve(rig);
    rig_expect_no_start(rig, "{'web': {'listen': '0.0.0.0:0'}}", "expected web.users_file");
    rig->finished = true;
}

Test(web, a_body_that_is_too_large_is_refused) {
    int port = rig_free_port();
    struct rig *rig = up(port, "");
    int descriptor = connect_to(port);
    device_send(descriptor, "POST /api/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n");
    device_expect(descriptor, "HTTP/1.1 413 ");
    close(descriptor);
    rig_finish(rig);
}

// An event stream that was cut goes on where it was; one that is of another run is told to read all anew.
Test(web, events_resume) {
    int port = rig_free_port();
    struct rig *rig = up(port, "");
    int stream = connect_to(port), again = connect_to(port);
    device_send(again, "GET /api/events?since=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    device_expect(again, "HTTP/1.1 200 ");
    device_send(stream, "GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    device_expect(stream, "HTTP/1.1 200 ");
    char text[ANSWER_MAX];
    size_t length = 0;
    text[0] = '\0';
    while (strstr(text, "event: reset") == NULL) {
        ssize_t count = read(again, text + length, sizeof text - 1 - length);
        cr_assert_gt(count, 0, "no reset came: %s", text);
        length += (size_t)count;
        text[length] = '\0';
    }
    close(stream);
    close(again);
    rig_finish(rig);
}

// The page's server and those who mean it no good, beside a gateway whose devices must not notice: floods of junk, readers
// that do not read, a thousand event streams, what is larger than anybody needs, and paths that lead elsewhere. All of it is
// counted; how fast it goes is for tests/recipes/web to measure.
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/e2e/http_client.h"
#include "tests/e2e/rig.h"

TestSuite(web_hostile, .fini = rig_clean);

#define STREAMS     1000
#define SLOW        50   // of them never read a byte
#define JUNK        2000 // requests
#define CONNECTIONS 8    // over which they come
#define REPORTS     200
#define HELD        100 // connections that one address may have where others reach the page

static struct rig *up(int *port) {
    struct rig *rig = rig_up("{'web': {'listen': '127.0.0.1:0'}}");
    *port = http_page_port(rig);
    return rig;
}

Test(web_hostile, what_is_malformed_is_refused) {
    static const char *const requests[] = {
        "GET / HTTP/1.1\r\n\r\n", // no Host
        "POST /api/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        "POST /api/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "GET /api/devices%00/../../etc HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET http://evil.example/api/devices HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET //api/devices HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        "GET /api//devices HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        "GET /api/devices/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        "GET /api/devices/%2e%2e%2f%2e%2e HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        "GET /api/devices/%ff%fe\"<b> HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        "GET /api/devices/1%0d%0aSet-Cookie:x=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        "GET /..\\..\\etc\\passwd HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        "GET /./style.css HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        "CONNECT evil.example:443 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    };
    int port;
    struct rig *rig = up(&port);
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++)
        http_expect_raw(port, requests[i], strlen(requests[i]), 4);
    http_expect(port, "GET /healthz", "", "", 200, "ok");
    rig_finish(rig);
}

// Headers that leave open where the request ends: with the reason, and at once.
Test(web_hostile, what_the_headers_contradict_is_refused_with_the_reason) {
    static const char *const requests[] = {
        "GET /healthz HTTP/1.1\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: localhost\r\n\r\n",
        "POST /api/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        ("POST /api/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\nTransfer-Encoding: "
         "chunked\r\n\r\n{}"),
        "POST /api/login HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    };
    int port;
    struct rig *rig = up(&port);
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        int descriptor = http_connect(port);
        device_send(descriptor, requests[i]);
        device_expect(descriptor, "HTTP/1.1 400 ");
        http_read_until(descriptor, "{\"reason\":\"");
        close(descriptor);
    }
    rig_finish(rig);
}

static char *filled(const char *head, size_t count, const char *tail) {
    char *text = malloc(strlen(head) + count + strlen(tail) + 1);
    cr_assert_not_null(text);
    memset(stpcpy(text, head), 'x', count);
    strcpy(text + strlen(head) + count, tail);
    return text;
}

Test(web_hostile, what_is_too_large_is_refused) {
    static const struct {
        const char *head, *tail;
        size_t count;
        int status;
    } large[] = {
        {"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Much: ", "\r\n\r\n", 100000, 4},
        {"GET /", " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 100000, 4},
        {"POST /api/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 70000\r\n\r\n", "", 70000, 413},
        // Who does not say how much it is: one chunk of 70,000 bytes.
        {"POST /api/login HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n11170\r\n",
         "\r\n0\r\n\r\n", 70000, 413},
    };
    int port;
    struct rig *rig = up(&port);
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        char *request = filled(large[i].head, large[i].count, large[i].tail);
        http_expect_raw(port, request, strlen(request), large[i].status);
        free(request);
    }
    http_expect(port, "GET /healthz", "", "", 200, "ok");
    rig_finish(rig);
}

// --- many from one address ---

// Where others reach the page: with a certificate of its own, and a user.
static struct rig *up_for_others(int *port) {
    struct rig *rig = rig_with_broker(NULL);
    char path[128], command[800], changes[400];
    rig_write_config(rig, "{'web': {'users_file': 'users'}}", path, sizeof path);
    snprintf(command, sizeof command,
             "cd %s && echo 'a good password' | %s web -c %s --add-user anna >added 2>&1 && "
             "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout page.key "
             "-out page.crt "
             "-days 2 -subj /CN=page 2>openssl.log",
             rig->directory, TRACKBUS_BINARY, path);
    snprintf(changes, sizeof changes,
             "{'web': {'listen': '0.0.0.0:0', 'users_file': '%s/users', 'cert_file': '%s/page.crt', "
             "'key_file': '%s/page.key'}}",
             rig->directory, rig->directory, rig->directory);
    cr_assert_eq(system(command), 0);
    rig_gateway_start(rig, changes);
    *port = http_page_port(rig);
    return rig;
}

static bool is_served_at_another_address(const struct rig *rig, int port) {
    char command[400];
    snprintf(command, sizeof command,
             "cd %s && printf 'GET /healthz HTTP/1.0\\r\\nHost: 127.0.0.1\\r\\n\\r\\n' | timeout 20 openssl "
             "s_client -quiet "
             "-bind 127.0.0.2 -connect 127.0.0.1:%d 2>>openssl.log | grep -q ' 200 OK'",
             rig->directory, port);
    return system(command) == 0;
}

// Whoever holds connections open, and sends a byte now and then, has a small part of them.
Test(web_hostile, one_address_does_not_take_all_connections) {
    int port, held[HELD];
    char byte;
    struct rig *rig = up_for_others(&port);
    for (size_t i = 0; i < HELD; i++)
        held[i] = http_connect(port);
    errno = 0;
    int over = http_connect(port);
    cr_assert_leq(recv(over, &byte, 1, 0), 0);
    cr_assert(errno != EAGAIN, "it is not closed");
    cr_assert(is_served_at_another_address(rig, port));
    cr_assert_eq(recv(held[HELD - 1], &byte, 1, MSG_DONTWAIT), -1, "one too few is served");
    for (size_t i = 0; i < HELD; i++)
        close(held[i]);
    close(over);
    rig_finish(rig);
}

// --- many at once ---

static void allow_files(void) {
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max < 4096 ? limit.rlim_max : 4096;
    cr_assert(setrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > STREAMS + 200,
              "this needs %d open files", STREAMS + 200);
}

static void open_streams(int port, int streams[STREAMS]) {
    for (size_t i = 0; i < STREAMS; i++) {
        streams[i] = http_connect(port);
        device_send(streams[i], "GET /api/events?device=" VAN " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        if (i >= SLOW)
            device_expect(streams[i], "HTTP/1.1 200 ");
    }
}

// As many junk requests as fit into what the sockets take now; answers are thrown away.
static size_t send_junk(int sockets[CONNECTIONS], size_t sent) {
    static const char *const junk[] = {
        "GET /wp-login.php HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "GET /api/devices/%2e%2e/%00 HTTP/1.1\r\nHost: evil\r\n\r\n",
        "POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\n\r\njunk",
        "DELETE /api/devices/1/commands HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"};
    static char answers[65536];
    for (size_t i = 0; i < CONNECTIONS; i++) {
        const char *request = junk[(sent + i) % 4];
        while (recv(sockets[i], answers, sizeof answers, MSG_DONTWAIT) > 0)
            ;
        if (sent + i < JUNK && send(sockets[i], request, strlen(request), MSG_NOSIGNAL) < 0)
            cr_assert_fail("the server closed a connection that it should answer");
    }
    return sent + CONNECTIONS;
}

// Reports between the junk; each of them must come out.
static void report_amid_junk(struct rig *rig, int port) {
    int sockets[CONNECTIONS], device = rig_tcp(rig);
    size_t sent = 0, reports = 0;
    for (size_t i = 0; i < CONNECTIONS; i++)
        sockets[i] = http_connect(port);
    while (sent < JUNK) {
        sent = send_junk(sockets, sent);
        if (reports < REPORTS && sent * REPORTS / JUNK >= reports)
            device_send(device, report(CAR, (int)++reports));
    }
    while (reports < REPORTS)
        device_send(device, report(CAR, (int)++reports));
    rig_expect_count(rig, "message/gw/devices/" CAR, REPORTS);
    for (size_t i = 0; i < CONNECTIONS; i++)
        close(sockets[i]);
    close(device);
}

static void expect_on_all(const int streams[STREAMS], const char *text) {
    for (size_t i = SLOW; i < STREAMS; i++)
        http_read_until(streams[i], text);
}

Test(web_hostile, a_gateway_does_not_suffer, .timeout = 120) {
    int port, streams[STREAMS];
    allow_files();
    struct rig *rig = up(&port);
    int device = rig_tcp(rig);
    device_send(device, report(VAN, 1));
    http_expect_soon(port, "GET /api/devices", "", "\"ident\":\"" VAN "\"");
    open_streams(port, streams);
    http_expect_soon(port, "GET /metrics", "", "trackbus_web_event_streams 1000\n");
    http_expect(port, "GET /api/events", "", "", 503, "too many event streams");
    report_amid_junk(rig, port);
    device_send(device, report(VAN, 2));
    expect_on_all(streams, "event: message\ndata: {\"");
    for (size_t i = 0; i < STREAMS; i++)
        close(streams[i]);
    http_expect_soon(port, "GET /metrics", "", "trackbus_web_event_streams 0\n");
    close(device);
    rig_finish(rig);
}

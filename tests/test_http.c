// How long a client of the page's server may take to say what it wants, by real connections on one loop.
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/web/http.h"

#define REQUEST_TIME 1500  // milliseconds
#define PATIENCE     15000 // the same

static uv_loop_t loop;
static struct http *http;
static bool late; // the handler does not answer yet

static struct http_answer answer(void *context, struct http_request *request) {
    return late ? HTTP_LATER : http_bytes(200, "text/plain", "here", 4);
}

static void set_up(void) {
    char *reason = NULL;
    late = false;
    uv_loop_init(&loop);
    http = http_new(
        &loop,
        &(struct http_setting){.address = "127.0.0.1:0", .request_time = REQUEST_TIME, .handler = answer},
        &reason);
    cr_assert_not_null(http, "%s", reason);
}

static void tear_down(void) {
    http_stop(http);
    uv_run(&loop, UV_RUN_DEFAULT);
    http_free(http);
    cr_assert_eq(uv_loop_close(&loop), 0, "a handle is left on the loop");
}

TestSuite(http, .init = set_up, .fini = tear_down);

static int connect_to_it(void) {
    int port = atoi(strrchr(http_name(http), ':') + 1), client = socket(AF_INET, SOCK_STREAM, 0);
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    cr_assert_eq(connect(client, (const struct sockaddr *)&address, sizeof address), 0);
    return client;
}

static void say(int client, const char *text) {
    send(client, text, strlen(text), MSG_NOSIGNAL); // the other side may have had enough
}

static void turn(void) {
    uv_run(&loop, UV_RUN_NOWAIT);
    usleep(2000);
}

// Reads what has come; true when the connection has ended.
static bool has_ended(int client, char *text, size_t capacity) {
    ssize_t count = recv(client, text, capacity - 1, MSG_DONTWAIT);
    text[count > 0 ? count : 0] = '\0';
    return count == 0 || (count < 0 && errno != EAGAIN);
}

static void expect_answer(int client) {
    char text[1024] = "";
    uint64_t end = uv_hrtime() / 1000000 + PATIENCE;
    while (strstr(text, "here") == NULL) {
        turn();
        cr_assert(!has_ended(client, text, sizeof text) && uv_hrtime() / 1000000 < end, "no answer comes");
    }
}

// Says a byte each turn until the server has had enough, which it must have in time.
static void trickle(int client, const char *byte) {
    char text[1024];
    uint64_t begin = uv_hrtime() / 1000000;
    while (!has_ended(client, text, sizeof text)) {
        cr_assert_str_empty(text, "it is answered: %s", text);
        cr_assert_lt(uv_hrtime() / 1000000, begin + PATIENCE, "who trickles bytes holds the connection");
        say(client, byte);
        turn();
    }
}

Test(http, headers_must_be_whole_in_time) {
    int client = connect_to_it();
    say(client, "GET / HTTP/1.1\r\nHost: here\r\nX: ");
    trickle(client, "x");
    close(client);
}

Test(http, a_body_must_be_whole_in_time) {
    int client = connect_to_it();
    say(client, "POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 60000\r\n\r\n");
    trickle(client, "x");
    close(client);
}

Test(http, the_next_request_must_be_whole_in_time) {
    int client = connect_to_it();
    say(client, "GET / HTTP/1.1\r\nHost: here\r\n\r\n");
    expect_answer(client);
    say(client, "GET / HTTP/1.1\r\nHost: here\r\nX: ");
    trickle(client, "x");
    close(client);
}

// An answer may take longer: what counts is the request. When the later one is cut, the time of the first was over.
Test(http, who_waits_for_an_answer_is_left_alone) {
    char text[1024];
    int first = connect_to_it();
    late = true;
    say(first, "GET / HTTP/1.1\r\nHost: here\r\n\r\n");
    for (int i = 0; i < 20; i++)
        turn();
    int second = connect_to_it();
    say(second, "GET / HTTP/1.1\r\nHost: here\r\n");
    trickle(second, "x");
    cr_assert(!has_ended(first, text, sizeof text), "who waits for an answer is cut off");
    late = false;
    http_wake(http);
    expect_answer(first);
    close(first);
    close(second);
}

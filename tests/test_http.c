// How long a client of the page's server may take to say what it wants, and how much those hold who do not read what they
// asked for, by real connections on one loop.
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/web/http.h"
#include "gateway/web/stream.h"
#include "tests/allocations.h"

#define REQUEST_TIME 1500  // milliseconds
#define PATIENCE     15000 // the same
#define SLOW         20    // readers that do not read
#define LARGE        (8 << 20)
#define EVENT        (1 << 20)
#define KEPT         14 // events, more than the system takes for a reader

static uv_loop_t loop;
static struct http *http;
static bool late;    // the handler does not answer yet
static size_t large; // bytes of an answer made for who asks, or 0
static size_t asked; // how often the handler was
static struct events *events;
static struct streams *streams; // that the handler opens, or NULL

static struct http_answer answer(void *context, struct http_request *request) {
    asked++;
    if (streams != NULL)
        return streams_open(streams, request, NULL, 0);
    if (large > 0)
        return http_text(200, "text/plain", memset(malloc(large), 'x', large), large);
    return late ? HTTP_LATER : http_bytes(200, "text/plain", "here", 4);
}

static void set_up(void) {
    char *reason = NULL;
    late = false;
    large = asked = 0;
    streams = NULL;
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

static unsigned ticks;

static void count_tick(uv_timer_t *timer) {
    ticks++;
}

// A chunk whose head does not end: the library cannot go on, and says until its time is over that there is something to
// do. The loop has other things to do too.
Test(http, a_request_that_cannot_go_on_stops_nothing_else) {
    static char head[40000] = "POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n1;";
    static uv_timer_t timer;
    size_t length = strlen(head), turns = 0;
    int client = connect_to_it();
    memset(head + length, 'x', sizeof head - length);
    cr_assert_eq(send(client, head, sizeof head, 0), sizeof head);
    uv_timer_init(&loop, &timer);
    uv_timer_start(&timer, count_tick, 10, 10);
    uint64_t begin = uv_hrtime() / 1000000;
    for (ticks = 0; ticks < 50; turns++)
        uv_run(&loop, UV_RUN_ONCE);
    uint64_t time = uv_hrtime() / 1000000 - begin;
    cr_expect(time < PATIENCE, "50 ticks of 10 ms took %lu ms", (unsigned long)time);
    cr_expect(turns < time + 200, "%zu turns in %lu ms", turns, (unsigned long)time);
    uv_close((uv_handle_t *)&timer, NULL);
    close(client);
}

// --- who does not read ---

// Asks for it, and leaves the answer to the system.
static int ask_and_sleep(const char *line) {
    int client = connect_to_it();
    size_t before = asked;
    say(client, line);
    uint64_t end = uv_hrtime() / 1000000 + PATIENCE;
    while (asked == before) {
        turn();
        cr_assert(uv_hrtime() / 1000000 < end, "nobody is asked");
    }
    return client;
}

static void expect_text(int client, const char *expected) {
    char text[1024] = "";
    uint64_t end = uv_hrtime() / 1000000 + PATIENCE;
    while (strstr(text, expected) == NULL) {
        turn();
        cr_assert(!has_ended(client, text, sizeof text) && uv_hrtime() / 1000000 < end, "%s does not come",
                  expected);
    }
}

static void await_no_answers(void) {
    uint64_t end = uv_hrtime() / 1000000 + PATIENCE;
    while (http_answers() > 0) {
        turn();
        cr_assert(uv_hrtime() / 1000000 < end, "answers are kept whose readers have gone");
    }
}

// Small ones are given all the same.
Test(http, answers_that_nobody_reads_have_a_bound) {
    int clients[SLOW];
    large = LARGE;
    for (size_t i = 0; i < SLOW; i++)
        clients[i] = ask_and_sleep("GET / HTTP/1.1\r\nHost: here\r\n\r\n");
    cr_expect(http_answers() <= HTTP_ANSWERS_MAX, "%zu bytes wait", http_answers());
    expect_text(clients[SLOW - 1], "HTTP/1.1 503 ");
    large = 100;
    int small = ask_and_sleep("GET / HTTP/1.1\r\nHost: here\r\n\r\n");
    expect_text(small, "HTTP/1.1 200 ");
    for (size_t i = 0; i < SLOW; i++)
        close(clients[i]);
    close(small);
    await_no_answers();
}

// Two may always be there: the one that is good, and one for those who still read the last.
Test(http, lists_that_are_read_slowly_have_a_bound_in_bytes) {
    struct http_snapshot *lists[4];
    size_t length = HTTP_SNAPSHOTS_BYTES_MAX / 3;
    for (size_t i = 0; i < 4; i++) {
        cr_expect(!http_snapshots_full(), "after %zu", i);
        lists[i] = http_snapshot_new("text/plain", malloc(length), length);
    }
    cr_expect(http_snapshots_full());
    http_snapshot_release(lists[0]);
    cr_expect(!http_snapshots_full());
    for (size_t i = 1; i < 4; i++)
        http_snapshot_release(lists[i]);
}

// --- event streams ---

static void add_events(size_t count) {
    char *data = malloc(EVENT);
    memset(data, 'x', EVENT);
    for (size_t i = 0; i < count; i++)
        events_add(events, "log", NULL, data, EVENT);
    free(data);
}

static void open_streams(void) {
    events = events_new(1);
    streams = streams_new(events);
    add_events(KEPT);
}

// The handler is asked no more; the streams go with the server.
static void close_streams(void) {
    http_stop(http);
    uv_run(&loop, UV_RUN_DEFAULT);
    http_free(http);
    uv_loop_close(&loop);
    streams_free(streams);
    events_free(events);
    set_up(); // for the end of the test
}

Test(http, events_have_a_bound) {
    struct events *few = events_new(1);
    for (int i = 0; i < EVENTS_MAX + 10; i++)
        events_add(few, "log", NULL, "{}", 2);
    cr_expect_null(events_at(few, 10));
    cr_expect(events_at(few, 11) != NULL && events_at(few, 11)->id == 11);
    events_free(few);
}

// What they have not read stays where it is, once for all.
Test(http, event_streams_that_nobody_reads_hold_no_copy) {
    int clients[SLOW];
    open_streams();
    size_t before = allocations_bytes();
    for (size_t i = 0; i < SLOW; i++)
        clients[i] = ask_and_sleep("GET /?since=0 HTTP/1.1\r\nHost: here\r\n\r\n");
    for (size_t i = 0; i < 50; i++)
        turn();
    size_t taken = allocations_bytes() - before;
    cr_expect(taken < SLOW * EVENT / 4, "%zu bytes for %d streams", taken, SLOW);
    for (size_t i = 0; i < SLOW; i++)
        close(clients[i]);
    close_streams();
}

// Reads to the end, and returns how much that was.
static size_t read_to_the_end(int client) {
    static char text[65536];
    size_t length = 0;
    uint64_t end = uv_hrtime() / 1000000 + PATIENCE;
    while (!has_ended(client, text, sizeof text)) {
        length += strlen(text);
        uv_run(&loop, UV_RUN_NOWAIT);
        cr_assert(uv_hrtime() / 1000000 < end, "it does not end");
    }
    return length;
}

// It has begun to read an event that is gone meanwhile: half of it is no event, and the client connects again.
Test(http, an_event_stream_whose_reader_is_far_behind_ends) {
    open_streams();
    int client = ask_and_sleep("GET /?since=0 HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
    expect_text(client, "id: 1\nevent: log\n");
    add_events(40);
    streams_wake(streams);
    cr_expect(read_to_the_end(client) < KEPT * EVENT);
    close(client);
    client = ask_and_sleep("GET /?since=0 HTTP/1.1\r\nHost: here\r\n\r\n");
    expect_text(client, "event: reset\n");
    close(client);
    close_streams();
}

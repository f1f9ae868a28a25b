// The wire: what is held and what flows, without libmosquitto and without a broker.
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "gateway/broker/wire.h"

#define MANY     (16U << 20) // bytes, more than wire and sockets take
#define MEMORY   (4U << 20)  // that they take at most
#define DEADLINE 15000       // milliseconds

static uv_loop_t loop;
static struct wire *wire;
static int library, broker; // the ends that libmosquitto and the broker have

static void set_up(void) {
    int pair[2];
    cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
    library = pair[0];
    broker = pair[1];
    uv_loop_init(&loop);
    wire = wire_new(&loop, library);
    cr_assert(wire != NULL);
}

static void tear_down(void) {
    wire_close(wire);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert(uv_loop_close(&loop) == 0, "a handle is left on the loop");
    close(library);
    close(broker);
}

TestSuite(wire, .init = set_up, .fini = tear_down);

// The link does this at the end of each turn.
static void turn(void) {
    wire_turn(wire);
    uv_run(&loop, UV_RUN_NOWAIT);
}

static void say(int from, const char *text) {
    cr_assert(write(from, text, strlen(text)) == (ssize_t)strlen(text));
}

// Exactly this has come to an end, after so many turns that more would have come too.
static void expect_bytes(int at, const char *text) {
    char bytes[256] = "";
    size_t length = 0;
    for (int i = 0; i < 10; i++) {
        turn();
        ssize_t came = read(at, bytes + length, sizeof bytes - 1 - length);
        length += came > 0 ? (size_t)came : 0;
    }
    cr_assert_str_eq(bytes, text);
}

Test(wire, moves_bytes_both_ways) {
    say(library, "CONNECT");
    expect_bytes(broker, "CONNECT");
    say(broker, "CONNACK");
    expect_bytes(library, "CONNACK");
}

Test(wire, holds_from_each_place_on) {
    say(library, "a");
    turn();
    wire_hold(wire);
    say(library, "b");
    turn();
    wire_hold(wire);
    wire_hold(wire);
    say(library, "c");
    expect_bytes(broker, "a");
    wire_release(wire);
    expect_bytes(broker, "b"); // what came to be held later does not keep it back
    wire_release(wire);
    expect_bytes(broker, "");
    wire_release(wire);
    expect_bytes(broker, "c");
    say(broker, "d");
    expect_bytes(library, "d");
}

// libmosquitto writes its acknowledgement before it says what it acknowledges.
Test(wire, holds_what_was_written_in_the_same_turn) {
    say(library, "PUBACK");
    wire_hold(wire);
    expect_bytes(broker, "");
    wire_close(wire);
    char byte;
    cr_assert(read(broker, &byte, 1) == 0, "what is held leaves at the end");
    wire = NULL;
}

Test(wire, says_whether_the_goodbye_has_left) {
    say(library, "a");
    turn();
    wire_hold(wire);
    say(library, "DISCONNECT");
    cr_assert(!wire_finish(wire, 10));
    expect_bytes(broker, "a");
    wire_release(wire);
    expect_bytes(broker, "DISCONNECT");
    say(library, "again");
    cr_assert(wire_finish(wire, 10));
    expect_bytes(broker, "again");
}

Test(wire, passes_on_what_was_said_before_the_end) {
    char byte;
    say(broker, "DISCONNECT");
    close(broker);
    expect_bytes(library, "DISCONNECT");
    cr_assert(read(library, &byte, 1) == 0, "the end of the connection does not come through");
    broker = -1;
}

static int connect_to_itself(int *other) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), handle = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0);
    getsockname(listener, (struct sockaddr *)&address, &size);
    cr_assert(connect(handle, (struct sockaddr *)&address, size) == 0);
    *other = accept(listener, NULL, NULL);
    close(listener);
    return handle;
}

// The broker is killed with something unread: the connection is reset behind its last words.
Test(wire, passes_on_what_was_said_before_a_reset) {
    char byte;
    int peer, handle = connect_to_itself(&peer);
    struct wire *other = wire_new(&loop, handle);
    say(handle, "unread");
    wire_turn(other);
    say(peer, "DISCONNECT");
    cr_assert(recv(peer, &byte, 1, MSG_PEEK) == 1);
    close(peer);
    expect_bytes(handle, "DISCONNECT");
    cr_assert(recv(handle, &byte, 1, MSG_DONTWAIT) == 0, "the end of the connection does not come through");
    wire_close(other);
    close(handle);
}

// --- what an end does not read ---

static char block[65536];

static size_t write_all(int from) {
    size_t sum = 0;
    for (int idle = 0; sum < MANY && idle < 20; turn()) {
        ssize_t done = write(from, block + sum % 251, sizeof block - 251);
        idle = done > 0 ? 0 : idle + 1;
        sum += done > 0 ? (size_t)done : 0;
    }
    return sum;
}

static void read_all(int at, size_t sum) {
    static char came[65536];
    uint64_t end = uv_hrtime() + DEADLINE * (uint64_t)1000000;
    for (size_t have = 0; have < sum; turn()) {
        cr_assert(uv_hrtime() < end, "%zu of %zu bytes came", have, sum);
        ssize_t length = read(at, came, sizeof came - 251);
        if (length <= 0)
            continue;
        cr_assert(memcmp(came, block + have % 251, (size_t)length) == 0, "other bytes came");
        have += (size_t)length;
    }
}

static void check_bound(int from, int to) {
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (char)(i % 251);
    size_t sum = write_all(from);
    cr_assert(sum > 0 && sum < MEMORY, "%zu bytes were taken although nobody reads", sum);
    read_all(to, sum);
}

Test(wire, takes_no_more_than_it_can_hold_for_the_broker) {
    check_bound(library, broker);
}

Test(wire, takes_no_more_than_it_can_hold_for_the_library) {
    check_bound(broker, library);
}

Test(wire, takes_no_more_while_it_holds) {
    wire_hold(wire);
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (char)(i % 251);
    size_t sum = write_all(library);
    cr_assert(sum < MEMORY);
    expect_bytes(broker, "");
    wire_release(wire);
    read_all(broker, sum);
}

// The bytes between libmosquitto and the broker; see wire.h.
#include "gateway/broker/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "gateway/base/memory.h"

#define CHUNK   65536      // bytes to read at once
#define OUT_MAX (1U << 20) // bytes from libmosquitto that wait; beyond, the rest waits in it
#define IN_TURN 8          // chunks from the broker in one turn of the loop

// What was held from one place on.
struct hold {
    uint64_t from; // of the bytes of libmosquitto, counted from the first
    size_t count;  // calls of wire_hold()
    struct hold *prev, *next;
};

struct wire {
    int broker, library; // the socket, and our end of the pair
    uv_poll_t broker_poll, library_poll;
    int broker_interest, library_interest;
    size_t closing;  // handles that the loop has not closed
    bool ended;      // the broker says no more
    bool lost;       // it can only be read what has come
    bool deaf;       // it takes no more
    bool silent;     // libmosquitto says no more
    bool is_blocked; // the network takes no more for now
    char *out;       // from libmosquitto
    size_t out_length, out_capacity;
    uint64_t taken; // bytes that came from libmosquitto in all
    struct hold *holds;
    char in[CHUNK]; // from the broker
    size_t in_start, in_end;
};

static void renew_polling(struct wire *wire);

// --- from libmosquitto to the broker ---

static void make_room(struct wire *wire) {
    if (wire->out_capacity - wire->out_length >= CHUNK)
        return;
    wire->out_capacity = wire->out_length + 2 * CHUNK;
    wire->out = must_have(realloc(wire->out, wire->out_capacity));
}

static bool take_out(struct wire *wire) {
    bool any = false;
    ssize_t length = CHUNK;
    while (length == CHUNK && wire->out_length < OUT_MAX && !wire->silent) {
        make_room(wire);
        length = recv(wire->library, wire->out + wire->out_length, CHUNK, MSG_DONTWAIT);
        wire->silent = length == 0 || (length < 0 && errno != EAGAIN && errno != EINTR);
        if (length <= 0)
            break;
        any = true;
        wire->taken += (uint64_t)length;
        wire->out_length += (size_t)length;
    }
    return any;
}

// Bytes that may leave.
static size_t allowed(const struct wire *wire) {
    uint64_t left = wire->taken - wire->out_length; // before
    return wire->holds != NULL ? (size_t)(wire->holds->from - left) : wire->out_length;
}

static void drop_front(struct wire *wire, size_t length) {
    wire->out_length -= length;
    memmove(wire->out, wire->out + length, wire->out_length);
}

static void put_out(struct wire *wire) {
    size_t length = wire->deaf ? 0 : allowed(wire), done = 0;
    wire->is_blocked = false;
    while (done < length && !wire->deaf && !wire->is_blocked) {
        ssize_t sent = send(wire->broker, wire->out + done, length - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0)
            done += (size_t)sent;
        else if (errno == EAGAIN)
            wire->is_blocked = true;
        else if (errno != EINTR)
            wire->deaf = true; // why it closed may still be read
    }
    if (done > 0)
        drop_front(wire, done);
}

// --- from the broker to libmosquitto ---

// Without an acknowledgement at once a broker that waits for one before its next small packet waits for 40 ms.
static void acknowledge_at_once(const struct wire *wire) {
    int on = 1;
    setsockopt(wire->broker, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
}

static void take_in(struct wire *wire) {
    ssize_t length = recv(wire->broker, wire->in, sizeof wire->in, MSG_DONTWAIT);
    wire->in_start = wire->in_end = 0;
    if (length > 0)
        wire->in_end = (size_t)length;
    else if (length == 0 || wire->lost || (errno != EAGAIN && errno != EINTR))
        wire->ended = true;
}

// Whether libmosquitto's end has taken all.
static bool put_in(struct wire *wire) {
    while (wire->in_start < wire->in_end) {
        ssize_t sent = send(wire->library, wire->in + wire->in_start, wire->in_end - wire->in_start,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EAGAIN)
            return false;
        wire->in_start += sent >= 0 ? (size_t)sent : wire->in_end - wire->in_start; // it has closed its end
    }
    return true;
}

static void move_in(struct wire *wire) {
    bool more = put_in(wire);
    for (size_t i = 0; (i < IN_TURN || wire->lost) && more && !wire->ended; i++) {
        take_in(wire);
        more =
            put_in(wire) && (wire->in_end == sizeof wire->in || wire->lost); // a lost one is not polled again
    }
    if (!wire->ended)
        acknowledge_at_once(wire);
    else if (wire->in_start == wire->in_end)
        shutdown(wire->library, SHUT_WR);
}

// --- on the loop ---

static void on_broker(uv_poll_t *poll, int status, int events) {
    struct wire *wire = poll->data;
    wire->lost = wire->lost || status < 0;
    if (wire->lost || (events & UV_READABLE) != 0)
        move_in(wire);
    if ((events & UV_WRITABLE) != 0)
        put_out(wire);
    renew_polling(wire);
}

static void on_library(uv_poll_t *poll, int status, int events) {
    struct wire *wire = poll->data;
    wire->silent = wire->silent || status < 0;
    if ((events & UV_WRITABLE) != 0)
        move_in(wire);
    wire_turn(wire);
}

static void poll_for(uv_poll_t *poll, int *before, int interest, uv_poll_cb then) {
    if (interest == *before)
        return;
    *before = interest;
    if (interest != 0)
        uv_poll_start(poll, interest, then);
    else
        uv_poll_stop(poll);
}

static void renew_polling(struct wire *wire) {
    bool is_full = wire->in_start < wire->in_end;
    int broker = (is_full || wire->ended || wire->lost ? 0 : UV_READABLE) |
                 (wire->is_blocked && !wire->lost ? UV_WRITABLE : 0);
    int library = (is_full && !wire->silent ? UV_WRITABLE : 0) |
                  (wire->out_length < OUT_MAX && !wire->silent ? UV_READABLE : 0);
    poll_for(&wire->broker_poll, &wire->broker_interest, broker, on_broker);
    poll_for(&wire->library_poll, &wire->library_interest, library, on_library);
}

bool wire_turn(struct wire *wire) {
    bool any = take_out(wire);
    if (wire->deaf)
        wire->out_length = 0;
    put_out(wire);
    renew_polling(wire);
    return any;
}

// --- holding ---

void wire_hold(struct wire *wire) {
    struct hold *last = wire->holds != NULL ? wire->holds->prev : NULL;
    if (last == NULL || last->from != wire->taken) {
        last = must_have(calloc(1, sizeof *last));
        last->from = wire->taken;
        DL_APPEND(wire->holds, last);
    }
    last->count++;
}

void wire_release(struct wire *wire) {
    struct hold *first = wire->holds;
    if (first == NULL || --first->count > 0)
        return;
    DL_DELETE(wire->holds, first);
    free(first);
    put_out(wire);
    renew_polling(wire);
}

// --- the beginning and the end ---

static bool make_pair(struct wire *wire, int handle) {
    int pair[2], size = 1 << 20; // as much as the system allows: each packet takes a place of its own
    wire->broker = fcntl(handle, F_DUPFD_CLOEXEC, 0);
    if (wire->broker < 0)
        return false;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
        close(wire->broker);
        return false;
    }
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    wire->library = pair[1];
    dup3(pair[0], handle, O_CLOEXEC);
    close(pair[0]);
    return true;
}

struct wire *wire_new(uv_loop_t *loop, int handle) {
    struct wire *wire = must_have(calloc(1, sizeof *wire));
    if (!make_pair(wire, handle)) {
        free(wire);
        return NULL;
    }
    uv_poll_init(loop, &wire->broker_poll, wire->broker);
    uv_poll_init(loop, &wire->library_poll, wire->library);
    wire->broker_poll.data = wire->library_poll.data = wire;
    renew_polling(wire);
    return wire;
}

static void on_closed(uv_handle_t *handle) {
    struct wire *wire = handle->data;
    if (--wire->closing == 0)
        free(wire);
}

void wire_close(struct wire *wire) {
    struct hold *hold, *next;
    if (wire == NULL)
        return;
    wire_turn(wire);
    DL_FOREACH_SAFE(wire->holds, hold, next) {
        free(hold);
    }
    free(wire->out);
    wire->closing = 2;
    uv_close((uv_handle_t *)&wire->broker_poll, on_closed);
    uv_close((uv_handle_t *)&wire->library_poll, on_closed);
    close(wire->broker);
    close(wire->library);
}

static bool wait_for(const struct wire *wire, short events, uint64_t end) {
    struct pollfd poller = {.fd = wire->broker, .events = events};
    uint64_t now = uv_hrtime();
    return now < end && poll(&poller, 1, (int)((end - now) / 1000000) + 1) == 1;
}

bool wire_finish(struct wire *wire, unsigned milliseconds) {
    uint64_t end = uv_hrtime() + milliseconds * (uint64_t)1000000;
    wire_turn(wire);
    while (wire->is_blocked && wait_for(wire, POLLOUT, end))
        wire_turn(wire);
    if (wire->out_length > 0)
        return wire->holds == NULL;
    shutdown(wire->broker, SHUT_WR);
    while (wait_for(wire, POLLIN, end))
        if (recv(wire->broker, wire->in, sizeof wire->in, MSG_DONTWAIT) <= 0)
            break;
    return true;
}

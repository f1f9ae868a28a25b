// Trackers over TCP; see tcp.h.
#include "gateway/channels/tcp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <utlist.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/channels/conversation.h"
#include "gateway/channels/event.h"
#include "gateway/channels/proxy.h"
#include "gateway/channels/socket.h"
#include "gateway/channels/tap.h"

#define BACKLOG         4096
#define RECEIVE_BUFFER  32768 // bytes that the system keeps of what a connection has sent and was not read
#define WRITE_QUEUE_MAX 65536 // bytes that a connection may have waiting to be written
#define DRAIN_TIME      5000  // milliseconds that a connection lives on after its end, for replies that wait
#define HELD_TIME       90000 // and for reports that wait for their position: more than these may
#define LET_GO_BYTES    1024  // that each of those that were held may say in a turn that has no more time
#define WAIT_STEP       100   // milliseconds after which one that waits for its device first tries again
#define WAIT_MAX        10000 // milliseconds after which it waits no longer

struct tcp_connection {
    struct peer peer; // first, so that the one is the other
    struct tcp_listener *listener;
    uv_tcp_t tcp;
    uv_timer_t timer;    // silence, identification and idleness, whichever is next
    uint64_t heard_from; // since when it could say who it is, by uv_now()
    struct tcp_connection *prev, *next;
    struct tcp_connection *prev_held, *next_held;
    struct tcp_connection *prev_due, *next_due;
    bool due; // its timer has ended, and there was no time for it yet
    struct gate_address *address;
    struct gate_guest guest;
    bool header_due; // a balancer's, which says where the tracker is
    uint8_t *header; // the beginning of it, or NULL
    size_t header_length;
    bool quiet_asked; // the silence after the last bytes was told to the codec
    struct tcp_connection *
        *held;        // while it has something to say and is not read: the list it is in, until tcp_resume()
    uint64_t held_as; // the number of it among those
    bool let_go;      // it was held, and was not read yet since: it is even in a turn that has no more time
    bool waits;       // the same, until its device may leave the other connection
    uint64_t waits_since, tries_at; // then, by uv_now()
    enum codec_follow waits_follow; // then: what is known of the bytes to come
    bool ended;                     // the device sends no more
    const char *lost;               // then: what the system said of a connection that was lost, or NULL
    bool closing;
    int handles; // that are not closed yet
};

struct write {
    uv_write_t request;
    uint8_t bytes[];
};

static void set_timer(struct tcp_connection *connection);
static bool admit(struct tcp_connection *connection);
static void on_timer(uv_timer_t *timer);
static void finish(struct tcp_connection *connection);
static void hold(struct tcp_connection *connection);
static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer);
static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer);
static enum close_code code_of_end(const struct peer *peer);

// --- closing ---

static void on_handle_closed(uv_handle_t *handle) {
    struct tcp_connection *connection = handle->data;
    if (--connection->handles == 0)
        free(connection);
}

static bool is_fault(enum close_code code) {
    return code == CLOSE_VIOLATION || code == CLOSE_PARSE_ERROR || code == CLOSE_REJECTED ||
           code == CLOSE_NOT_THIS_PROTOCOL || code == CLOSE_LIMIT;
}

// Someone who connects again and again must not fill the log, or the outbox ahead of the messages of others:
// a connection that never identifies itself is reported at its end only if it was at its beginning.
static void tell_accepted(struct tcp_connection *connection) {
    struct peer *peer = &connection->peer;
    char note[LIMITER_NOTE_MAX];
    unsigned suppressed;
    peer->told = peer_may_tell(peer, "accepted", &suppressed);
    if (!peer->told)
        return;
    peer_log(peer, "connection %llu accepted%s", (unsigned long long)peer->serial,
             limiter_note(suppressed, note));
    event_accepted(peer, suppressed);
}

static void tell_closed(const struct tcp_connection *connection, enum close_code code) {
    const struct peer *peer = &connection->peer;
    char text[256];
    snprintf(text, sizeof text,
             "connection %llu: %s%s (code %d) after %llu s, %llu bytes in, %llu out, %llu messages",
             (unsigned long long)peer->serial, peer->loss != NULL ? "lost: " : "",
             peer->loss != NULL ? peer->loss : close_code_text(code), code,
             (unsigned long long)(uv_now(peer->parts->loop) - peer->opened) / 1000,
             (unsigned long long)peer->received, (unsigned long long)peer->sent,
             (unsigned long long)peer->messages);
    bool told = peer->told;
    if (is_fault(code))
        told = peer_warn(peer, "closed", NULL, "%s", text);
    else if (told)
        peer_log(peer, "%s", text);
    if (told)
        event_closed(peer, code);
}

static void tell_changed(const struct tcp_listener *listener) {
    listener->parts->observer->changed(listener->parts->observer->context, listener->channel);
}

static void leave_held(struct tcp_connection *connection) {
    if (connection->held != NULL)
        DL_DELETE2(*connection->held, connection, prev_held, next_held);
    connection->held = NULL;
}

static void leave_due(struct tcp_connection *connection) {
    if (connection->due)
        DL_DELETE2(connection->listener->due, connection, prev_due, next_due);
    connection->due = false;
}

static void leave_listener(struct tcp_connection *connection) {
    struct tcp_listener *listener = connection->listener;
    leave_held(connection);
    leave_due(connection);
    if (listener->timeouts_next == connection)
        listener->timeouts_next = connection->next;
    DL_DELETE(listener->connections, connection);
    listener->count--;
    gate_leave(listener->parts->gate, connection->address);
    gate_guest_goes(listener->parts->gate, &connection->guest);
    tell_changed(listener);
}

static void close_connection(struct peer *peer, enum close_code code) {
    struct tcp_connection *connection = (struct tcp_connection *)peer;
    if (connection->closing)
        return;
    connection->closing = true;
    if (connection->ended && code == CLOSE_SAME_IDENT) // it is back before all that it had said was out
        code = code_of_end(peer);
    tell_closed(connection, code);
    conversation_end(peer);
    free(connection->header);
    leave_listener(connection);
    connection->handles = 2;
    uv_close((uv_handle_t *)&connection->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&connection->timer, on_handle_closed);
}

// --- writing ---

static void on_written(uv_write_t *request, int status) {
    free(request); // the reading side hears of a broken connection
}

// What the network does not take at once. False: nothing more is sent.
static bool queue_rest(struct tcp_connection *connection, const uint8_t *bytes, size_t length) {
    struct write *write = must_have(malloc(sizeof *write + length));
    memcpy(write->bytes, bytes, length);
    uv_buf_t buffer = uv_buf_init((char *)write->bytes, (unsigned)length);
    bool queued = uv_write(&write->request, (uv_stream_t *)&connection->tcp, &buffer, 1, on_written) == 0;
    if (!queued)
        free(write);
    return queued;
}

static void send_bytes(struct peer *peer, const uint8_t *bytes, size_t length) {
    struct tcp_connection *connection = (struct tcp_connection *)peer;
    uv_buf_t buffer = uv_buf_init((char *)bytes, (unsigned)length);
    if (connection->closing)
        return;
    peer->sent += length;
    if (connection->ended)
        set_timer(connection); // this may be what it still waited for
    int written = uv_try_write((uv_stream_t *)&connection->tcp, &buffer, 1);
    size_t done = written > 0 ? (size_t)written : 0;
    if (done < length &&
        uv_stream_get_write_queue_size((uv_stream_t *)&connection->tcp) + length > WRITE_QUEUE_MAX) {
        peer->close_code = CLOSE_LIMIT; // it does not read; the timer closes it, so no caller loses it here
        uv_timer_start(&connection->timer, on_timer, 0, 0);
    } else if (done == length || queue_rest(connection, bytes + done, length - done)) {
        tap_sent(peer, bytes, length);
    }
}

// --- time ---

static bool has_unread(const struct tcp_connection *connection) {
    int descriptor;
    char byte;
    return uv_fileno((const uv_handle_t *)&connection->tcp, &descriptor) == 0 &&
           recv(descriptor, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

// A report that ends with a silence is still to be taken.
static bool waits_for_quiet(const struct tcp_connection *connection) {
    const struct stream *stream = &connection->peer.stream;
    return stream->codec->quiet_ms > 0 && stream_waits(stream) && !connection->quiet_asked;
}

static bool is_behind(const struct peer *peer) {
    const struct tcp_connection *connection = (const struct tcp_connection *)peer;
    return !connection->ended && (waits_for_quiet(connection) || has_unread(connection));
}

// It is we who made it wait.
static void all_out(struct peer *peer) {
    struct tcp_connection *connection = (struct tcp_connection *)peer;
    if (!connection->ended || connection->closing)
        return;
    peer->last_heard = uv_now(peer->parts->loop);
    set_timer(connection);
}

static const struct peer_transport tcp_transport = {
    .is_behind = is_behind, .send = send_bytes, .close = close_connection, .all_out = all_out};

// Less and less often: there may be thousands that say the same ident.
static void try_later(struct tcp_connection *connection) {
    uint64_t now = uv_now(connection->peer.parts->loop);
    connection->tries_at = now + WAIT_STEP + (now - connection->waits_since) / 4;
    set_timer(connection);
}

static void wait_for_device(struct tcp_connection *connection, enum codec_follow follow) {
    if (!connection->waits)
        connection->waits_since = uv_now(connection->peer.parts->loop);
    connection->waits = true;
    connection->waits_follow = follow;
    uv_read_stop((uv_stream_t *)&connection->tcp);
    try_later(connection);
}

// It has just said who it is. False: no place is left for one that is not in the registry.
static bool takes_its_place(struct tcp_connection *connection) {
    const struct peer *peer = &connection->peer;
    bool listed = peer->device != NULL && peer->device->listed;
    size_t listed_count = registry_count_listed(peer->parts->registry);
    if (gate_guest_is_named(peer->parts->gate, &connection->guest, listed, listed_count))
        return true;
    peer_warn(peer, "limit", NULL,
              "rejected: the places that are left are for devices of the registry (limits.connections)");
    connection->listener->refused++;
    return false;
}

static void take(struct tcp_connection *connection, const uint8_t *bytes, size_t length,
                 enum codec_follow follow) {
    enum close_code code = conversation_take(&connection->peer, bytes, length, follow);
    bool named = code == CLOSE_NONE && connection->guest.nameless && connection->peer.places != NULL;
    if (named && !takes_its_place(connection))
        code = CLOSE_LIMIT;
    if (code != CLOSE_NONE)
        close_connection(&connection->peer, code);
    else if (connection->peer.stream.postponed)
        wait_for_device(connection, follow);
    else
        connection->waits = false;
}

// When the connection is to be looked at next, by uv_now().
static uint64_t next_deadline(const struct tcp_connection *connection) {
    const struct peer *peer = &connection->peer;
    const struct config *config = peer->parts->config;
    uint64_t deadline = peer->last_heard + (uint64_t)config->limits.idle_timeout * 1000;
    uint64_t identify = connection->heard_from + (uint64_t)config->limits.identify_timeout * 1000;
    uint64_t quiet = peer->last_heard + stream_quiet_ms(&peer->stream);
    if (connection->waits)
        return connection->tries_at;
    if (connection->ended && peer->holds != NULL)
        return peer->last_heard + HELD_TIME;
    if (connection->ended)
        return peer->replies != NULL && peer->loss == NULL ? peer->last_heard + DRAIN_TIME : 0;
    if (peer->places == NULL && identify < deadline)
        deadline = identify;
    return waits_for_quiet(connection) && quiet < deadline ? quiet : deadline;
}

static bool is_idle(const struct tcp_connection *connection, uint64_t now) {
    const struct peer *peer = &connection->peer;
    return now - peer->last_heard >= (uint64_t)peer->parts->config->limits.idle_timeout * 1000;
}

static bool is_nameless(const struct tcp_connection *connection, uint64_t now) {
    const struct peer *peer = &connection->peer;
    uint64_t timeout = (uint64_t)peer->parts->config->limits.identify_timeout * 1000;
    return peer->places == NULL && now - connection->heard_from >= timeout;
}

// Silence tells the codec that what it has of a frame is all that comes.
static void tell_quiet(struct tcp_connection *connection) {
    connection->quiet_asked = true;
    take(connection, NULL, 0, CODEC_QUIET);
    if (!connection->closing)
        set_timer(connection);
}

// A device on the wrong port was not silent.
static enum close_code code_of_silence(const struct peer *peer) {
    return peer->places == NULL && peer->foreign ? CLOSE_NOT_THIS_PROTOCOL : CLOSE_INACTIVE;
}

static enum close_code code_of_end(const struct peer *peer) {
    return peer->loss != NULL ? CLOSE_INACTIVE : CLOSE_BY_DEVICE;
}

static void take_silence(struct tcp_connection *connection, uint64_t now) {
    bool nameless = is_nameless(connection, now);
    // Timers run before reads: after a long turn, or when the connection was held until now, it need not be
    // the device that was silent.
    if (!connection->ended && !nameless && has_unread(connection))
        uv_timer_start(&connection->timer, on_timer, 1, 0);
    else if (connection->ended)
        close_connection(&connection->peer, code_of_end(&connection->peer));
    else if (nameless || is_idle(connection, now))
        close_connection(&connection->peer, code_of_silence(&connection->peer));
    else
        tell_quiet(connection);
}

// The device was not silent meanwhile.
static void go_on(struct tcp_connection *connection) {
    connection->peer.may_wait = true;
    connection->peer.last_heard = connection->heard_from = uv_now(connection->peer.parts->loop);
    if (connection->ended) {
        finish(connection);
    } else {
        uv_read_start((uv_stream_t *)&connection->tcp, give_buffer, on_read);
        set_timer(connection);
    }
}

static void try_again(struct tcp_connection *connection) {
    struct peer *peer = &connection->peer;
    uint64_t now = uv_now(peer->parts->loop);
    peer->may_wait = now - connection->waits_since < WAIT_MAX;
    take(connection, NULL, 0, connection->waits_follow);
    if (!connection->closing && !connection->waits)
        go_on(connection);
}

static bool is_due(const struct tcp_connection *connection) {
    return connection->peer.close_code != CLOSE_NONE ||
           uv_now(connection->peer.parts->loop) >= next_deadline(connection);
}

static void do_due(struct tcp_connection *connection) {
    struct peer *peer = &connection->peer;
    uint64_t now = uv_now(peer->parts->loop);
    if (!is_due(connection)) {
        set_timer(connection);
    } else if (peer->close_code != CLOSE_NONE) {
        close_connection(peer, peer->close_code);
    } else if (connection->waits) { // its turn comes: thousands may have waited for as long
        hold(connection);
    } else if (connection->held) { // we are the ones not reading
        peer->last_heard = connection->heard_from = now;
        set_timer(connection);
    } else {
        take_silence(connection, now);
    }
}

// One at least, so that no channel waits for another.
static void do_some_due(uv_timer_t *timer) {
    struct tcp_listener *listener = timer->data;
    do {
        struct tcp_connection *connection = listener->due;
        if (connection == NULL)
            return;
        leave_due(connection);
        do_due(connection);
    } while (gate_does_more(listener->parts->gate));
    uv_timer_start(timer, do_some_due, 1, 0);
}

// With one timer for all that wait: to start those of thousands again in each turn takes longer than what is due.
static void wait_for_time(struct tcp_connection *connection) {
    struct tcp_listener *listener = connection->listener;
    if (connection->due)
        return;
    if (listener->due == NULL)
        uv_timer_start(&listener->due_timer, do_some_due, 1, 0);
    connection->due = true;
    DL_APPEND2(listener->due, connection, prev_due, next_due);
}

static void on_timer(uv_timer_t *timer) {
    struct tcp_connection *connection = timer->data;
    const struct tcp_listener *listener = connection->listener;
    if (!is_due(connection))
        set_timer(connection);
    else if (listener->due != NULL || !gate_does_more(listener->parts->gate))
        wait_for_time(connection);
    else
        do_due(connection);
}

static void set_timer(struct tcp_connection *connection) {
    uint64_t now = uv_now(connection->peer.parts->loop), deadline = next_deadline(connection);
    uv_timer_start(&connection->timer, on_timer, deadline > now ? deadline - now : 0, 0);
}

// --- reading ---

static char memory[16384]; // one for all connections: what is not taken at once the stream keeps itself

// Of a device outside the registry, where that has any.
static bool is_strangers(const struct tcp_connection *connection) {
    const struct peer *peer = &connection->peer;
    return peer->device != NULL && registry_is_outside(peer->parts->registry, peer->device);
}

// How many bytes may be read from it now. Those that speak all the time may stand before it in each turn, and leave no time.
static unsigned may_read(const struct tcp_connection *connection) {
    struct gate *gate = connection->peer.parts->gate;
    if (!gate_lets_strangers(gate) && is_strangers(connection))
        return 0;
    if (gate_reads(gate))
        return sizeof memory;
    return connection->let_go && !gate_holds(gate) ? LET_GO_BYTES : 0;
}

static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    *buffer = uv_buf_init(memory, may_read(handle->data));
}

static int compare_held(const struct tcp_connection *one, const struct tcp_connection *other) {
    return one->held_as < other->held_as ? -1 : one->held_as > other->held_as;
}

// One that was let go, and that there was no time for, keeps its place: only others that were let go stand before it.
static void enter_held(struct tcp_connection *connection) {
    struct tcp_listener *listener = connection->listener;
    connection->held = is_strangers(connection) ? &listener->strangers_held : &listener->held;
    if (connection->let_go) {
        DL_INSERT_INORDER2(*connection->held, connection, compare_held, prev_held, next_held);
    } else {
        connection->held_as = ++listener->held_count;
        DL_APPEND2(*connection->held, connection, prev_held, next_held);
    }
    connection->let_go = false;
}

// Only connections that have something to say are held, and only those have to be let go: read, or tried again.
static void hold(struct tcp_connection *connection) {
    if (connection->held)
        return;
    uv_read_stop((uv_stream_t *)&connection->tcp);
    enter_held(connection);
    gate_resume_soon(connection->peer.parts->gate);
}

// All that it has said was taken. A device that closes its side may still read: it gets the replies that wait for its
// messages to be safe. Not so when the system gave the connection up, or something on the way cut it. In any case it is
// here until its reports are out.
static void finish(struct tcp_connection *connection) {
    struct peer *peer = &connection->peer;
    peer->loss = connection->lost;
    if (peer->holds == NULL && (peer->loss != NULL || peer->replies == NULL))
        close_connection(peer, code_of_end(peer));
    else
        set_timer(connection);
}

// lost: what the system said, or NULL.
static void take_end(struct tcp_connection *connection, const char *lost) {
    connection->ended = connection->peer.ended = true;
    connection->lost = lost;
    uv_read_stop((uv_stream_t *)&connection->tcp);
    take(connection, NULL, 0, CODEC_END);
    if (!connection->closing && !connection->waits)
        finish(connection);
}

// --- a balancer's header ---

static void refuse_header(struct tcp_connection *connection, const char *reason) {
    conversation_report(&connection->peer, "proxy", "PROXY_HEADER", reason);
    close_connection(&connection->peer, CLOSE_VIOLATION);
}

static struct proxy_header read_header(struct tcp_connection *connection, const uint8_t *bytes,
                                       size_t length) {
    size_t room = PROXY_HEADER_MAX - connection->header_length;
    length = length < room ? length : room;
    connection->header = must_have(realloc(connection->header, connection->header_length + length));
    memcpy(connection->header + connection->header_length, bytes, length);
    connection->header_length += length;
    return proxy_read(connection->header, connection->header_length, false);
}

// From now on it is the tracker's connection, for limits too.
static void take_header(struct tcp_connection *connection, const struct proxy_header *header) {
    struct gate *gate = connection->peer.parts->gate;
    connection->header_due = false;
    free(connection->header);
    connection->header = NULL;
    if (header->verdict == PROXY_FROM) {
        gate_leave(gate, connection->address);
        conversation_move(&connection->peer, (const struct sockaddr *)&header->remote);
        connection->address = gate_enter(gate, connection->peer.ip);
    }
    admit(connection);
}

// Returns how many of the bytes belong to the header.
static size_t take_beginning(struct tcp_connection *connection, const uint8_t *bytes, size_t length) {
    size_t before = connection->header_length;
    struct proxy_header header = read_header(connection, bytes, length);
    if (header.verdict == PROXY_MORE)
        return length;
    if (header.verdict == PROXY_BAD) {
        refuse_header(connection, header.reason);
        return length;
    }
    take_header(connection, &header);
    return header.length - before;
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer) {
    struct tcp_connection *connection = stream->data;
    if (count == UV_ENOBUFS) {
        hold(connection);
        return;
    }
    connection->let_go = false;
    if (count == UV_EOF) {
        take_end(connection, NULL);
        return;
    }
    if (count < 0) {
        take_end(connection, uv_strerror((int)count));
        return;
    }
    gate_has_read(connection->peer.parts->gate, (size_t)count);
    bool was_nameless = connection->peer.places == NULL;
    const uint8_t *bytes = (const uint8_t *)buffer->base;
    size_t header = connection->header_due ? take_beginning(connection, bytes, (size_t)count) : 0;
    if (connection->closing || header == (size_t)count)
        return;
    connection->quiet_asked = false;
    bool all = (size_t)count < buffer->len; // that it has written until now
    take(connection, bytes + header, (size_t)count - header, all ? CODEC_PAUSE : CODEC_OPEN);
    // Idleness alone needs no new timer: when it fires, it looks again.
    if (!connection->closing && (stream_waits(&connection->peer.stream) || was_nameless))
        set_timer(connection);
}

// --- accepting ---

// The nameless one that is here longest makes way for the connection.
static bool makes_way(const struct tcp_connection *connection) {
    const struct channel_parts *parts = connection->peer.parts;
    const struct gate_guest *guest =
        gate_longest_nameless(parts->gate, registry_count_listed(parts->registry));
    struct tcp_connection *other = guest != NULL ? guest->owner : NULL;
    if (other == NULL || other == connection)
        return false;
    other->listener->refused++;
    close_connection(&other->peer, CLOSE_LIMIT);
    return true;
}

// Before the header the address is the balancer's, which has many.
static bool within_limits(const struct tcp_connection *connection) {
    const struct channel_parts *parts = connection->peer.parts;
    int per_address = parts->config->limits.connections_per_address;
    if (gate_is_crowded(parts->gate) && !makes_way(connection)) {
        peer_warn(&connection->peer, "limit", NULL, "rejected: %d connections are open (limits.connections)",
                  gate_connections_max(parts->gate));
        return false;
    }
    if (!connection->header_due && gate_count_from(connection->address) > per_address) {
        peer_warn(&connection->peer, "limit", NULL,
                  "rejected: %d connections are open from this address (limits.connections_per_address)",
                  per_address);
        return false;
    }
    return true;
}

// False: it is closed.
static bool admit(struct tcp_connection *connection) {
    bool within = within_limits(connection);
    if (!within) {
        connection->listener->refused++;
        close_connection(&connection->peer, CLOSE_LIMIT);
    } else if (!connection->header_due) {
        tell_accepted(connection);
    }
    return within;
}

static void enter_listener(struct tcp_connection *connection) {
    struct tcp_listener *listener = connection->listener;
    connection->address = gate_enter(listener->parts->gate, connection->peer.ip);
    connection->guest.owner = connection;
    gate_guest_comes(listener->parts->gate, &connection->guest);
    DL_APPEND(listener->connections, connection);
    listener->count++;
    tell_changed(listener);
}

static void be_patient(struct tcp_connection *connection) {
    const struct config *config = connection->listener->parts->config;
    socket_be_patient(&connection->tcp, config->limits.tcp_keepalive, config->limits.idle_timeout);
}

static void set_some_timeouts(uv_timer_t *timer) {
    struct tcp_listener *listener = timer->data;
    for (bool may = true; listener->timeouts_next != NULL && may;
         may = gate_does_more(listener->parts->gate)) {
        struct tcp_connection *connection = listener->timeouts_next;
        listener->timeouts_next = connection->next;
        be_patient(connection);
        set_timer(connection);
    }
    if (listener->timeouts_next != NULL)
        uv_timer_start(timer, set_some_timeouts, 1, 0);
}

// Those that come meanwhile have the new ones.
void tcp_set_timeouts(struct tcp_listener *listener) {
    listener->timeouts_next = listener->connections;
    set_some_timeouts(&listener->timeouts_timer);
}

static void begin(struct tcp_connection *connection, const struct sockaddr *address) {
    struct tcp_listener *listener = connection->listener;
    conversation_begin(&connection->peer, listener->parts, listener->channel, listener->counters,
                       &tcp_transport, address);
    connection->heard_from = connection->peer.opened;
    connection->peer.may_wait = true;
    enter_listener(connection);
    uv_tcp_nodelay(&connection->tcp, 1);
    be_patient(connection);
    connection->header_due = listener->channel->proxy_protocol;
    if (connection->header_due && !proxy_is_trusted(listener->channel, address)) {
        refuse_header(connection, "it is none of the balancers of proxy_from");
        return;
    }
    if (!admit(connection))
        return;
    set_timer(connection);
    uv_read_start((uv_stream_t *)&connection->tcp, give_buffer, on_read);
}

static void free_refused(uv_handle_t *handle) {
    free(handle->data);
}

// Without descriptors this happens for each attempt to connect; libuv turns those away.
static void log_not_accepted(const struct tcp_listener *listener, int status) {
    struct channel_parts *parts = listener->parts;
    unsigned suppressed;
    char note[LIMITER_NOTE_MAX];
    if (limiter_allows(&parts->log_limiter, uv_now(parts->loop), "accept", 6, &suppressed))
        log_error("channel %s: cannot accept a connection: %s%s", listener->channel->name,
                  uv_strerror(status), limiter_note(suppressed, note));
}

static void accept_one(struct tcp_listener *listener) {
    uv_stream_t *server = (uv_stream_t *)&listener->socket;
    struct sockaddr_storage address;
    int length = sizeof address;
    struct tcp_connection *connection = must_have(calloc(1, sizeof *connection));
    connection->listener = listener;
    uv_tcp_init(listener->parts->loop, &connection->tcp);
    connection->tcp.data = connection->timer.data = connection;
    if (uv_accept(server, (uv_stream_t *)&connection->tcp) != 0 ||
        uv_tcp_getpeername(&connection->tcp, (struct sockaddr *)&address, &length) != 0) {
        uv_close((uv_handle_t *)&connection->tcp, free_refused); // gone before we looked
        return;
    }
    uv_timer_init(listener->parts->loop, &connection->timer);
    begin(connection, (struct sockaddr *)&address);
}

static void on_postponed(uv_timer_t *timer) {
    struct tcp_listener *listener = timer->data;
    accept_one(listener);
}

// libuv accepts all that wait, as many as there are, and stops when one of them is not taken until it is.
static void on_connection(uv_stream_t *server, int status) {
    struct tcp_listener *listener = server->data;
    if (status < 0)
        log_not_accepted(listener, status);
    else if (gate_accepts(listener->parts->gate))
        accept_one(listener);
    else
        uv_timer_start(&listener->postponed, on_postponed, 0, 0);
}

int tcp_listen(struct tcp_listener *listener, struct channel_parts *parts,
               const struct config_channel *channel, struct stream_counters *counters) {
    *listener = (struct tcp_listener){.parts = parts, .channel = channel, .counters = counters};
    uv_tcp_init_ex(parts->loop, &listener->socket, channel->tcp.ss_family);
    uv_timer_init(parts->loop, &listener->postponed);
    uv_timer_init(parts->loop, &listener->due_timer);
    uv_timer_init(parts->loop, &listener->timeouts_timer);
    listener->socket.data = listener->postponed.data = listener;
    listener->due_timer.data = listener->timeouts_timer.data = listener;
    int result = parts->config->workers < 2 ? 0 : socket_share_port((const uv_handle_t *)&listener->socket);
    if (result == 0)
        result = uv_tcp_bind(&listener->socket, (const struct sockaddr *)&channel->tcp, 0);
    // Connections inherit it. Otherwise the system would take megabytes for each one that is not read for a
    // while.
    int size = RECEIVE_BUFFER;
    if (result == 0)
        result = uv_recv_buffer_size((uv_handle_t *)&listener->socket, &size);
    return result != 0 ? result : uv_listen((uv_stream_t *)&listener->socket, BACKLOG, on_connection);
}

// When the gateway ends. What a connection has sent and nobody has read is there, perhaps only the rest of a report: it must
// be neither lost nor taken for something else.
static void take_last(struct tcp_connection *connection) {
    size_t most = connection->peer.stream.codec->frame_max;
    ssize_t count = 0;
    connection->peer.may_wait = false;
    int descriptor;
    if (most > sizeof memory)
        most = sizeof memory;
    if (!connection->ended && !connection->header_due &&
        uv_fileno((uv_handle_t *)&connection->tcp, &descriptor) == 0)
        count = recv(descriptor, memory, most, MSG_DONTWAIT);
    if (count > 0)
        take(connection, (const uint8_t *)memory, (size_t)count, CODEC_OPEN);
    if (!connection->closing && count < (ssize_t)most)
        take(connection, NULL, 0, CODEC_END); // a report without a terminator is not lost
}

void tcp_close(struct tcp_listener *listener) {
    struct tcp_connection *connection, *next;
    uv_close((uv_handle_t *)&listener->socket, NULL);
    uv_close((uv_handle_t *)&listener->postponed, NULL);
    uv_close((uv_handle_t *)&listener->due_timer, NULL);
    uv_close((uv_handle_t *)&listener->timeouts_timer, NULL);
    DL_FOREACH_SAFE(listener->connections, connection, next) {
        take_last(connection);
        close_connection(&connection->peer, CLOSE_RESTART);
    }
}

static void let_go(struct tcp_connection *connection) {
    leave_held(connection);
    if (connection->waits) {
        try_again(connection);
        return;
    }
    connection->let_go = true;
    uv_read_start((uv_stream_t *)&connection->tcp, give_buffer, on_read);
}

size_t tcp_resume(struct tcp_listener *listener, size_t count) {
    size_t resumed = 0;
    for (; listener->held != NULL && resumed < count; resumed++)
        let_go(listener->held);
    bool strangers_too = gate_lets_strangers(listener->parts->gate);
    for (; strangers_too && listener->strangers_held != NULL && resumed < count; resumed++)
        let_go(listener->strangers_held);
    return resumed;
}

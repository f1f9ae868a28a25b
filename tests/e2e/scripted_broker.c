// The scripted broker: its thread, its connections, its beginning and end; see scripted_broker.h.
#include "tests/e2e/scripted_broker.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

#include "tests/e2e/scripted_broker_parts.h"

#define CONNECTIONS_MAX 64
#define LEAVE_TIME      2000 // milliseconds that a client has to read the last of it
#define PORT_ATTEMPTS   20

// --- small things ---

int64_t scripted_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void trace(struct scripted_broker *broker, const struct connection *connection, const char *format, ...) {
    int64_t now = scripted_clock();
    va_list values;
    fprintf(broker->trace, "%lld.%03lld ", (long long)now / 1000, (long long)now % 1000);
    if (connection != NULL)
        fprintf(broker->trace, "%u %s ", connection->number,
                connection->past != NULL ? connection->past->is.client : "-");
    va_start(values, format);
    vfprintf(broker->trace, format, values);
    va_end(values);
    fputc('\n', broker->trace);
}

void lock(struct scripted_broker *broker) {
    pthread_mutex_lock(&broker->lock);
}

void unlock(struct scripted_broker *broker) {
    uint64_t one = 1;
    pthread_mutex_unlock(&broker->lock);
    if (write(broker->wake, &one, sizeof one) < 0)
        abort(); // nobody reads so little that it is full
}

void past_add(struct past *past, void *item) {
    if (past->count == past->capacity) {
        past->capacity = past->capacity * 2 + 64;
        past->items = realloc(past->items, past->capacity * sizeof(void *));
    }
    past->items[past->count++] = item;
}

// --- what is due later ---

struct later *do_later(struct scripted_broker *broker, const struct connection *connection, unsigned delay,
                       later_act *act) {
    struct later *later = calloc(1, sizeof *later);
    later->due = scripted_clock() + delay;
    later->connection = connection != NULL ? connection->number : 0;
    later->act = act;
    DL_APPEND(broker->later, later);
    return later;
}

void drop_later(struct scripted_broker *broker, struct later *later) {
    DL_DELETE(broker->later, later);
    message_drop(later->message);
    buffer_free(&later->bytes);
    free(later->text);
    free(later);
}

static struct connection *find_connection(struct scripted_broker *broker, unsigned number) {
    struct connection *connection;
    DL_FOREACH(broker->connections, connection)
    if (connection->number == number && !connection->leaves)
        return connection;
    return NULL;
}

// Of those with the same time the one that was asked for first.
static struct later *first_due(struct scripted_broker *broker) {
    struct later *later, *first = NULL;
    DL_FOREACH(broker->later, later)
    if (first == NULL || later->due < first->due)
        first = later;
    return first;
}

static void do_what_is_due(struct scripted_broker *broker) {
    int64_t now = scripted_clock();
    for (struct later *later; (later = first_due(broker)) != NULL && later->due <= now;) {
        later->act(broker, find_connection(broker, later->connection), later);
        drop_later(broker, later);
    }
}

// --- the end of a connection ---

static void publish_will_late(struct scripted_broker *broker, struct connection *connection,
                              struct later *later) {
    trace(broker, NULL, "Last Will of %s after its delay", later->text);
    route(broker, later->message, NULL, false);
}

// The Will does not wait longer than the session lasts, which is expiry seconds.
static void give_out_will(struct scripted_broker *broker, struct connection *connection, uint32_t expiry) {
    const char *client = connection->past->is.client;
    struct message *will = connection->will;
    unsigned delay = connection->will_delay < expiry ? connection->will_delay : expiry;
    connection->will = NULL;
    if (delay > 0) {
        struct later *later = do_later(broker, NULL, delay * 1000, publish_will_late);
        later->message = will;
        later->text = strdup(client);
        return;
    }
    trace(broker, connection, "its Last Will");
    route(broker, will, find_session(broker, client), false);
    message_drop(will);
}

static void end_session(struct scripted_broker *broker, struct connection *connection) {
    struct session *session = connection->session;
    uint32_t expiry = session->expiry;
    session->ended = scripted_clock();
    session->connection = NULL;
    connection->session = NULL;
    if (expiry == 0)
        session_forget(broker, session);
    if (connection->will != NULL && !connection->hold_will)
        give_out_will(broker, connection, expiry);
}

void leave(struct scripted_broker *broker, struct connection *connection, const char *why) {
    if (connection->leaves)
        return;
    connection->leaves = true;
    connection->deadline = scripted_clock() + LEAVE_TIME;
    if (connection->past != NULL)
        connection->past->is.end = why;
    trace(broker, connection, "ends: %s", why);
    if (connection->session != NULL)
        end_session(broker, connection);
    connection->past = NULL; // the test may forget it from now on
}

static void free_connection(struct scripted_broker *broker, struct connection *connection) {
    DL_DELETE(broker->connections, connection);
    close(connection->descriptor);
    message_drop(connection->will);
    buffer_free(&connection->in);
    buffer_free(&connection->out);
    for (size_t i = 0; i <= ALIASES_MAX; i++)
        free(connection->aliases[i]);
    free(connection);
}

// --- bytes ---

static void send_some(struct scripted_broker *broker, struct connection *connection) {
    struct buffer *out = &connection->out;
    ssize_t sent = 0;
    while (out->length > 0 && sent >= 0) {
        sent = send(connection->descriptor, out->bytes, out->length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0)
            buffer_remove(out, (size_t)sent);
    }
    if (sent < 0 && errno != EAGAIN) {
        leave(broker, connection, "closed");
        connection->gone = true;
    }
    if (connection->leaves && out->length == 0 && !connection->shut) {
        shutdown(connection->descriptor, SHUT_WR); // it still reads what was sent before
        connection->shut = true;
    }
}

// False: nothing more for now.
static bool receive_some(struct scripted_broker *broker, struct connection *connection) {
    uint8_t part[65536];
    ssize_t got = recv(connection->descriptor, part, sizeof part, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (got <= 0) {
        leave(broker, connection, "closed");
        connection->gone = true;
        return false;
    }
    connection->heard = scripted_clock();
    if (!connection->leaves)
        put_raw(&connection->in, (struct bytes){part, (size_t)got});
    return (size_t)got == sizeof part;
}

static void accept_one(struct scripted_broker *broker) {
    int descriptor = accept4(broker->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), count;
    struct connection *connection;
    if (descriptor < 0)
        return;
    DL_COUNT(broker->connections, connection, count);
    if (count == CONNECTIONS_MAX) {
        trace(broker, NULL, "too many connections");
        close(descriptor);
        return;
    }
    connection = calloc(1, sizeof *connection);
    connection->descriptor = descriptor;
    connection->number = ++broker->last_connection;
    connection->heard = scripted_clock();
    DL_APPEND(broker->connections, connection);
}

static void check_time(struct scripted_broker *broker, struct connection *connection) {
    int64_t now = scripted_clock();
    if (connection->leaves && now > connection->deadline)
        connection->gone = true;
    if (connection->session != NULL && connection->keep_alive > 0 &&
        now - connection->heard > (int64_t)connection->keep_alive * 1500)
        disconnect(broker, connection, 0x8D, NULL, "keep alive");
}

static void work(struct scripted_broker *broker) {
    struct connection *connection, *after;
    do_what_is_due(broker);
    DL_FOREACH(broker->connections, connection) {
        while (serve(broker, connection))
            continue;
        check_time(broker, connection);
    }
    do_what_is_due(broker);
    DL_FOREACH_SAFE(broker->connections, connection, after) {
        send_some(broker, connection);
        if (connection->gone)
            free_connection(broker, connection);
    }
}

// --- the thread ---

#define POLLED_MAX (CONNECTIONS_MAX + 2)
#define LOOK_TIME  100 // milliseconds between looks at the clock

static int wait_time(struct scripted_broker *broker) {
    const struct later *later = broker->frozen ? NULL : first_due(broker);
    int64_t left = later != NULL ? later->due - scripted_clock() : LOOK_TIME;
    return left < 0 ? 0 : left < LOOK_TIME ? (int)left : LOOK_TIME;
}

static nfds_t what_to_poll(struct scripted_broker *broker, struct pollfd *polled) {
    const struct connection *connection;
    nfds_t count = 0;
    polled[count++] = (struct pollfd){.fd = broker->wake, .events = POLLIN};
    if (broker->frozen || !broker->runs)
        return count;
    polled[count++] = (struct pollfd){.fd = broker->listener, .events = POLLIN};
    DL_FOREACH(broker->connections, connection)
    polled[count++] = (struct pollfd){.fd = connection->descriptor,
                                      .events = (short)(POLLIN | (connection->out.length > 0 ? POLLOUT : 0))};
    return count;
}

static void receive_all(struct scripted_broker *broker, const struct pollfd *polled, nfds_t count) {
    struct connection *connection;
    DL_FOREACH(broker->connections, connection)
    for (nfds_t i = 2; i < count; i++)
        if (polled[i].fd == connection->descriptor && (polled[i].revents & ~POLLOUT) != 0)
            while (receive_some(broker, connection))
                continue;
}

// The lock is held outside of poll(): what was polled may be gone when it returns, and that is looked at
// again.
static void turn(struct scripted_broker *broker) {
    struct pollfd polled[POLLED_MAX];
    uint64_t calls;
    nfds_t count = what_to_poll(broker, polled);
    int timeout = wait_time(broker);
    pthread_mutex_unlock(&broker->lock);
    poll(polled, count, timeout);
    pthread_mutex_lock(&broker->lock);
    if (polled[0].revents != 0 && read(broker->wake, &calls, sizeof calls) < 0)
        return;
    if (broker->frozen || !broker->runs)
        return;
    if (count > 1 && polled[1].revents != 0)
        accept_one(broker);
    receive_all(broker, polled, count);
    work(broker);
}

static void *run(void *context) {
    struct scripted_broker *broker = context;
    pthread_mutex_lock(&broker->lock);
    while (!broker->ends)
        turn(broker);
    pthread_mutex_unlock(&broker->lock);
    return NULL;
}

// A signal that is for the test must not come here.
static void start_thread(struct scripted_broker *broker) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_create(&broker->thread, NULL, run, broker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

// --- beginning and end ---

static bool listen_at(struct scripted_broker *broker, int port) {
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 64) != 0) {
        close(listener);
        return false;
    }
    broker->listener = listener;
    return true;
}

static bool find_port(struct scripted_broker *broker) {
    for (int i = 0; i < PORT_ATTEMPTS; i++) {
        rig_broker_reserve(broker->rig);
        if (listen_at(broker, broker->rig->broker_port))
            return true;
    }
    return false;
}

struct scripted_broker *scripted_broker_start(struct rig *rig) {
    struct scripted_broker *broker = calloc(1, sizeof *broker);
    char path[96];
    snprintf(path, sizeof path, "%s/broker.log", rig->directory);
    broker->rig = rig;
    broker->trace = fopen(path, "ae");
    cr_assert(broker->trace != NULL);
    setvbuf(broker->trace, NULL, _IOLBF, BUFSIZ);
    pthread_mutex_init(&broker->lock, NULL);
    broker->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    cr_assert(find_port(broker), "no port for the scripted broker");
    broker->port = rig->broker_port;
    broker->runs = true;
    start_thread(broker);
    return broker;
}

int scripted_broker_port(struct scripted_broker *broker) {
    return broker->port;
}

static void end_connections(struct scripted_broker *broker) {
    while (broker->connections != NULL) {
        struct connection *connection = broker->connections;
        message_drop(connection->will);
        connection->will = NULL;
        leave(broker, connection, "stop");
        free_connection(broker, connection);
    }
}

void scripted_broker_stop(struct scripted_broker *broker) {
    lock(broker);
    if (broker->runs) {
        shutdown(broker->listener, SHUT_RDWR); // frees the port at once, even while the thread waits at it
        close(broker->listener);
    }
    broker->runs = false;
    trace(broker, NULL, "stops");
    end_connections(broker);
    while (broker->later != NULL)
        drop_later(broker, broker->later);
    unlock(broker);
}

static void remember(struct scripted_broker *broker, unsigned memory) {
    if ((memory & SCRIPTED_SNAPSHOT) != 0)
        state_copy(&broker->state, &broker->snapshot);
    if ((memory & SCRIPTED_RETAINED) == 0)
        forget_retained(&broker->state, NULL);
    if ((memory & SCRIPTED_SESSIONS) == 0)
        sessions_free(&broker->state);
}

void scripted_broker_restart(struct scripted_broker *broker, unsigned memory) {
    lock(broker);
    bool listens = !broker->runs && listen_at(broker, broker->port);
    remember(broker, memory);
    trace(broker, NULL, "starts again");
    broker->runs = true;
    unlock(broker);
    cr_assert(listens, "the scripted broker cannot have its port again");
}

void scripted_broker_snapshot(struct scripted_broker *broker) {
    lock(broker);
    state_copy(&broker->snapshot, &broker->state);
    unlock(broker);
}

void scripted_broker_freeze(struct scripted_broker *broker) {
    lock(broker);
    broker->frozen = true;
    unlock(broker);
}

void scripted_broker_thaw(struct scripted_broker *broker) {
    lock(broker);
    broker->frozen = false;
    unlock(broker);
}

static void free_broker(struct scripted_broker *broker) {
    state_free(&broker->state);
    state_free(&broker->snapshot);
    scripted_broker_forget_past(broker);
    free(broker->connects.items);
    free(broker->publishes.items);
    free(broker->subscribes.items);
    fclose(broker->trace);
    close(broker->wake);
    pthread_mutex_destroy(&broker->lock);
    free(broker);
}

static char *end(struct scripted_broker *broker) {
    scripted_broker_stop(broker);
    char *faults = scripted_broker_take_faults(broker);
    lock(broker);
    broker->ends = true;
    unlock(broker);
    pthread_join(broker->thread, NULL);
    free_broker(broker);
    return faults;
}

void scripted_broker_end(struct scripted_broker *broker) {
    char *faults = end(broker);
    cr_assert(faults == NULL, "clients broke the protocol:\n%s", faults);
}

void scripted_broker_finish(struct scripted_broker *broker) {
    struct rig *rig = broker->rig;
    if (rig->gateway > 0)
        rig_finish(rig);
    rig->finished = false; // until nothing is left to be said
    scripted_broker_end(broker);
    rig->finished = true;
}

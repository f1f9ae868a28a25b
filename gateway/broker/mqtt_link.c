// The link to the broker; see mqtt_link.h. What libmosquitto 2.0.11 asks of its user:
//
//  - mosquitto_loop_start() uses select() and never connects once there are more than 1024 descriptors, so
//  the
//    loop here drives loop_read, loop_write and loop_misc.
//  - The library closes its socket before on_disconnect, and the next socket often has the same number. So
//  the
//    descriptor is compared after every turn of the loop, and each connection has a fresh uv_poll_t.
//  - mosquitto_loop_read() reads as many packets as messages are under way, however long that takes, unless errno says
//    behind one of them that the socket has no more. So a callback that was the last one of its turn says that. (Where
//    another version did not look at errno, turns would be longer, and nothing else.)
//  - It acknowledges a publish before it says that the publish came. So it is told to queue what it has to write (see
//    link_client_new()), and the loop here has it written at the end of each turn; or later, when what came must be on
//    disk first: a process that is killed takes the acknowledgement with it, and the broker delivers again. (QoS 2 would
//    not help: its PUBCOMP goes before the callback too.)
//  - Connecting resolves the name and waits for the connection, and only the blocking call takes the
//  properties
//    of MQTT 5. It runs on libuv's thread pool, where it may block; the client is handed over to the loop
//    when it returns, and no two threads ever use it at once. The name stays with the client, which TLS
//    needs.
#include "gateway/broker/mqtt_link.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/base/libmosquitto.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/backoff.h"
#include "gateway/broker/broker_book.h"
#include "gateway/broker/broker_limits.h"
#include "gateway/broker/hearing.h"
#include "gateway/broker/link_client.h"
#include "gateway/broker/pace.h"
#include "gateway/broker/packet.h"
#include "gateway/broker/subscriber.h"

#define CONNACK_SESSION_PRESENT 1 // flag
#define CONNACK_TIMEOUT         10000 // milliseconds of silence until the broker has answered CONNECT, and SUBSCRIBE
#define SUBSCRIBE_MAX           600000 // milliseconds that the answers to all of SUBSCRIBE may take
#define MISC_INTERVAL           1000   // milliseconds
#define CLOSE_TIME              500 // milliseconds that the broker is given to close the connection at the end
#define READ_PACKETS            256     // packets to read or write in one turn
#define READ_TIME               5000000 // nanoseconds of a turn in which packets are read
#define AT_ONCE                 50      // milliseconds until another broker or version is tried
#define SOMEBODY_WAITS          200     // milliseconds until the next attempt
#define EXPIRY_MAX              2147483 // seconds. Artemis takes what is not in 31 bits of milliseconds for over

enum state { IDLE, CONNECTING, WAITING_CONNACK, SUBSCRIBING, UP, STOPPED };

struct mqtt_link {
    uv_loop_t *loop;
    const struct config *config;
    char *name; // for the log
    enum mqtt_session session;
    char *will_topic, *will_payload;
    const struct mqtt_link_handlers *handlers;
    void *context;
    enum state state;
    struct broker_route route;
    struct broker *broker; // of this attempt
    struct link_attempt attempt;
    struct mosquitto *client;
    size_t held;     // calls of hold() without their release(), also of earlier connections
    uv_poll_t *poll; // on the heap: libuv frees it after the next one has begun
    int polled;      // descriptor of poll
    int interest;    // events of poll
    bool broken;     // to be torn down at the end of this turn
    bool by_us;      // we broke it, or the broker for a reason that no message has
    bool by_network; // it was reset, or timed out
    int result;      // of the library's call that broke it
    char why[CAUSE_MAX];
    char said[CAUSE_MAX]; // the last cause in the log, of a link that tries so often
    bool explained;       // the broker was heard, or the cause is known: no silence
    bool at_once;         // the next attempt
    bool sent_away;       // to another broker, which is not known
    bool speaks_plain;    // the broker, when TLS was tried
    bool tls_said;        // the log has why TLS failed
    bool rival_said;      // in the log
    bool resumed;         // the session, on this connection
    uint64_t accepted;    // when it was, by uv_now()
    struct backoff backoff;
    struct subscriber *subscriber;
    struct hearing *hearing;
    struct asking_again hearing_again;
    bool hearing_said;           // that one was refused, in this run
    struct broker_limits limits; // of this connection
    bool in_library;             // it is reading or writing, and may be in a callback
    uint64_t read_until;         // while it is reading, by uv_hrtime(); else 0
    bool enough;                 // no more is read in this turn
    bool cut_short;              // in the last one: of TLS, what follows may stand in the library
    bool flushing;
    uint64_t numbered; // messages with a packet id that have come
    int *early;        // mids that were written while somebody flushed; or NULL
    size_t early_count;
    struct pace pace;
    struct packet_last last; // properties
    uv_work_t work;
    int connect_result;
    uv_timer_t timer;     // the next attempt, or the wait for CONNACK
    uv_timer_t misc;      // keep-alive
    uv_timer_t paced;     // until the broker lets us publish the next one
    uv_prepare_t prepare; // renews what is polled, once a turn
    uv_idle_t rest;       // reads what stands in the library
    struct mqtt_carrier carrier;
};

static void attempt(struct mqtt_link *link);

static void free_poll(uv_handle_t *handle) {
    free(handle);
}

static void stop_polling(struct mqtt_link *link) {
    if (link->poll != NULL)
        uv_close((uv_handle_t *)link->poll, free_poll);
    link->poll = NULL;
    link->polled = -1;
}

// When the library closes its socket, the next connection of a device may get the same number within this turn
// of the loop: to end the polling only then would end that of the device.
static void let_go_of_closed(struct mqtt_link *link) {
    if (link->poll != NULL && mosquitto_socket(link->client) != link->polled)
        stop_polling(link);
}

// The library's calls report a broken connection by their result; it is torn down outside of its callbacks.
static void note_result(struct mqtt_link *link, int result) {
    if (result == MOSQ_ERR_SUCCESS)
        return;
    let_go_of_closed(link);
    if (link->broken)
        return;
    link->broken = true;
    link->result = result;
}

// The first cause counts.
__attribute__((format(printf, 2, 3))) static void break_link(struct mqtt_link *link, const char *format,
                                                             ...) {
    va_list arguments;
    va_start(arguments, format);
    if (*link->why == '\0')
        vsnprintf(link->why, sizeof link->why, format, arguments);
    va_end(arguments);
    link->explained = true;
    note_result(link, MOSQ_ERR_CONN_LOST);
}

// --- polling ---

// A TLS server that reads CONNECT says so in an alert of its own.
static void look_for_tls(struct mqtt_link *link) {
    unsigned char bytes[2];
    ssize_t length = recv(link->polled, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
    if (length > 0 && link_cause_is_tls(bytes, (size_t)length))
        break_link(link, "%s", link_cause_speaks_tls);
}

static void tell_ready(struct mqtt_link *link) {
    if (mqtt_link_is_up(link) && link->handlers->ready != NULL)
        link->handlers->ready(link->context);
}

static bool has_more_to_read(const struct mqtt_link *link) {
    int length = 0;
    return !link->broken && ioctl(link->polled, FIONREAD, &length) == 0 && length > 0;
}

// At the end of each callback: whether the library goes on with the next packet.
static void end_packet(struct mqtt_link *link) {
    if (link->read_until == 0 || (!link->enough && uv_hrtime() < link->read_until))
        return;
    link->enough = true;
    errno = EAGAIN;
}

// While something is held, nothing is read after this: what has come by now is on disk, and acknowledged, together.
static void read_in(struct mqtt_link *link) {
    int on = 1;
    link->in_library = true;
    link->enough = false;
    link->read_until = uv_hrtime() + READ_TIME;
    do
        note_result(link, mosquitto_loop_read(link->client, READ_PACKETS));
    while (link->held > 0 && !link->enough && uv_hrtime() < link->read_until && has_more_to_read(link));
    link->read_until = 0;
    link->cut_short = link->enough;
    link->in_library = false;
    // A broker that waits for TCP's acknowledgement before its next small packet would wait for 40 ms.
    if (!link->broken)
        setsockopt(link->polled, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
}

// That the socket takes more only ends the wait: on_prepare() writes.
static void on_poll(uv_poll_t *poll, int status, int events) {
    struct mqtt_link *link = poll->data;
    if (link->poll != poll || link->client == NULL)
        return; // closed in this turn
    if (status < 0) {
        link->by_network = true;
        note_result(link, MOSQ_ERR_CONN_LOST);
    }
    if (link->state == WAITING_CONNACK && !link->attempt.address.tls)
        look_for_tls(link);
    if (!link->broken && (events & UV_READABLE) != 0)
        read_in(link);
    tell_ready(link);
}

static void on_rest(uv_idle_t *idle) {
    struct mqtt_link *link = idle->data;
    uv_idle_stop(idle);
    if (link->client == NULL || link->broken || link->held > 0)
        return;
    read_in(link);
    tell_ready(link);
}

// The socket may have nothing more, and will not wake us.
static void go_on_reading(struct mqtt_link *link) {
    if (link->cut_short && link->attempt.address.tls && link->held == 0)
        uv_idle_start(&link->rest, on_rest);
}

static void write_out(struct mqtt_link *link) {
    if (link->held > 0 || !mosquitto_want_write(link->client))
        return;
    link->in_library = true;
    note_result(link, mosquitto_loop_write(link->client, READ_PACKETS));
    link->in_library = false;
}

// Whoever flushes is not told meanwhile that what is published at QoS 0 was written.
static bool is_too_early(struct mqtt_link *link, int mid) {
    if (!link->flushing)
        return false;
    link->early = must_have(realloc(link->early, (link->early_count + 1) * sizeof *link->early));
    link->early[link->early_count++] = mid;
    return true;
}

static void tell_early(struct mqtt_link *link) {
    size_t count = link->early_count;
    int *early = link->early;
    link->early = NULL;
    link->early_count = 0;
    for (size_t i = 0; i < count; i++)
        link->handlers->published(link->context, early[i], MQTT_TAKEN, "");
    free(early);
}

static void end_turn(struct mqtt_link *link) {
    tell_early(link);
    if (!mosquitto_want_write(link->client))
        return;
    write_out(link);
    tell_ready(link); // QoS 0 is answered by being written
}

static int interest_of(const struct mqtt_link *link) {
    if (link->held > 0)
        return 0;
    return UV_READABLE | (mosquitto_want_write(link->client) ? UV_WRITABLE : 0);
}

static void renew_polling(struct mqtt_link *link) {
    int descriptor = mosquitto_socket(link->client);
    int interest = interest_of(link);
    if (descriptor < 0) {
        note_result(link, MOSQ_ERR_NO_CONN);
        return;
    }
    if (descriptor != link->polled) {
        stop_polling(link);
        link->poll = must_have(calloc(1, sizeof *link->poll));
        link->poll->data = link;
        link->polled = descriptor;
        link->interest = 0;
        uv_poll_init(link->loop, link->poll, descriptor);
    }
    if (interest == 0)
        uv_poll_stop(link->poll);
    else if (interest != link->interest)
        uv_poll_start(link->poll, interest, on_poll);
    link->interest = interest;
}

// --- the end of a connection ---

static void drop_client(struct mqtt_link *link) {
    stop_polling(link);
    uv_timer_stop(&link->misc);
    uv_timer_stop(&link->paced);
    uv_idle_stop(&link->rest);
    link->cut_short = false;
    subscriber_end(link->subscriber);
    hearing_end(link->hearing);
    asking_again_end(&link->hearing_again);
    if (link->client != NULL)
        mosquitto_destroy(link->client);
    link->client = NULL;
    free(link->early);
    link->early = NULL;
    link->early_count = 0;
    link->broken = false;
}

static void on_retry(uv_timer_t *timer) {
    attempt(timer->data);
}

static void log_retry(struct mqtt_link *link, unsigned delay) {
    int length = (int)strlen(link->why);
    if (delay == SOMEBODY_WAITS && strcmp(link->said, link->why) == 0)
        return;
    snprintf(link->said, sizeof link->said, "%s", link->why);
    length -= length > 0 && link->why[length - 1] == '.'; // the library's sentences end with one
    if (delay == AT_ONCE)
        log_warning("%s: %.*s; retrying at once", link->name, length, link->why);
    else
        log_warning("%s: %.*s; retrying in %u.%u s", link->name, length, link->why, delay / 1000,
                    delay % 1000 / 100);
}

// What the library's result says, when nothing else is known.
static void find_cause(struct mqtt_link *link) {
    bool waiting = link->state == WAITING_CONNACK && !link->explained;
    bool in_tls = link->result == MOSQ_ERR_TLS;
    if (*link->why != '\0')
        return;
    if (link->speaks_plain)
        snprintf(link->why, sizeof link->why, "%s", link_cause_speaks_plain);
    else if (waiting && !(in_tls && link->tls_said))
        link_cause_of_silence(link->why, link->attempt.address.tls, in_tls);
    else
        snprintf(link->why, sizeof link->why, "%s", mosquitto_strerror(link->result));
}

// A broker that closes the connection, or answers in a format of its own, may know only an older version.
static void learn_version(struct mqtt_link *link) {
    bool silent = link->state == WAITING_CONNACK && !link->explained && link->result != MOSQ_ERR_TLS;
    if (silent && protocol_version_closed(&link->broker->version, uv_now(link->loop)))
        link->at_once = true;
}

static unsigned next_delay(struct mqtt_link *link, bool was_up) {
    if (link->at_once)
        return AT_ONCE;
    if ((!was_up || link->sent_away) && broker_route_failed(&link->route))
        return AT_ONCE;
    if (link->handlers->somebody_waits)
        return SOMEBODY_WAITS;
    return backoff_delay(&link->backoff, (unsigned)rand());
}

static bool gives_up(const struct mqtt_link *link) {
    return link->handlers->failed != NULL && link->handlers->failed(link->context, link->why);
}

static void retry_later(struct mqtt_link *link, bool was_up) {
    unsigned delay = next_delay(link, was_up);
    if (!was_up && delay != AT_ONCE && gives_up(link))
        return;
    log_retry(link, delay);
    uv_timer_start(&link->timer, on_retry, delay, 0);
}

static enum mqtt_end how_it_ended(const struct mqtt_link *link) {
    return link->by_us ? MQTT_ENDED_BY_US : link->by_network ? MQTT_ENDED_BY_NETWORK : MQTT_ENDED_BY_BROKER;
}

static void tear_down(struct mqtt_link *link) {
    bool was_up = link->state == UP;
    enum mqtt_end end = how_it_ended(link);
    link->by_us = link->by_network = false;
    if (backoff_down(&link->backoff, uv_now(link->loop)))
        broker_route_lasted(&link->route);
    find_cause(link);
    learn_version(link);
    drop_client(link);
    link->state = IDLE;
    if (was_up)
        link->handlers->down(link->context, end); // which may say that it gets on
    retry_later(link, was_up);
}

static void on_prepare(uv_prepare_t *prepare) {
    struct mqtt_link *link = prepare->data;
    if (link->client == NULL || link->state == CONNECTING)
        return;
    if (!link->broken)
        end_turn(link);
    if (!link->broken) {
        renew_polling(link);
        go_on_reading(link);
    }
    if (link->broken)
        tear_down(link);
}

static void on_misc(uv_timer_t *timer) {
    struct mqtt_link *link = timer->data;
    note_result(link, mosquitto_loop_misc(link->client));
}

static void on_connack_timeout(uv_timer_t *timer) {
    struct mqtt_link *link = timer->data;
    break_link(link, "no answer to %s", link->state == SUBSCRIBING ? "SUBSCRIBE" : "CONNECT");
}

// Not for ever: an answer may be lost.
static void wait_for_subscriptions(struct mqtt_link *link) {
    uint64_t passed = uv_now(link->loop) - link->accepted;
    uint64_t left = passed < SUBSCRIBE_MAX ? SUBSCRIBE_MAX - passed : 0;
    uv_timer_start(&link->timer, on_connack_timeout, left < CONNACK_TIMEOUT ? left : CONNACK_TIMEOUT, 0);
}

// What is retained, or was kept for the session, may come before the answers to the subscriptions, and be much. What others
// publish meanwhile says nothing of them.
static bool may_come_before_answers(const struct mqtt_link *link, const struct mosquitto_message *message) {
    return link->state == SUBSCRIBING && (message->retain || (link->resumed && message->mid != 0));
}

// --- what the broker says of the connection ---

// Returns whether the broker sends us to another one, which is then tried: the one that it names, or the next one in
// the book. (libmosquitto keeps what a DISCONNECT names to itself.)
static bool follow_reference(struct mqtt_link *link, int reason, const mosquitto_property *properties) {
    char *reference = NULL;
    bool forever = reason == MQTT_RC_SERVER_MOVED;
    if (reason != MQTT_RC_USE_ANOTHER_SERVER && !forever)
        return false;
    mosquitto_property_read_string(properties, MQTT_PROP_SERVER_REFERENCE, &reference, false);
    bool follows = reference != NULL && broker_route_refer(&link->route, reference, forever);
    break_link(link, "%s%s%s%s", mosquitto_reason_string(reason), reference != NULL ? ": " : "",
               reference != NULL ? reference : "",
               follows || reference == NULL ? "" : ", which is not followed");
    link->at_once = follows;
    link->sent_away = !follows;
    free(reference);
    return true;
}

// Returns whether the Last Will is to blame, which then is made simpler.
static bool simplify_will(struct mqtt_link *link, int reason) {
    bool *flag = reason == MQTT_RC_RETAIN_NOT_SUPPORTED ? &link->broker->will_unretained
                 : reason == MQTT_RC_QOS_NOT_SUPPORTED  ? &link->broker->will_at_qos_0
                                                        : NULL;
    if (flag == NULL || link->will_topic == NULL || *flag)
        return false;
    *flag = link->at_once = true;
    break_link(link, "it does not take the Last Will %s",
               flag == &link->broker->will_unretained ? "retained: it goes without"
                                                      : "with QoS 1: it goes with QoS 0");
    return true;
}

static bool refuses_version(int reason) {
    return reason == MQTT_RC_UNSUPPORTED_PROTOCOL_VERSION || reason == CONNACK_REFUSED_PROTOCOL_VERSION;
}

static void take_refusal(struct mqtt_link *link, int reason, const mosquitto_property *properties) {
    char cause[CAUSE_MAX];
    if (follow_reference(link, reason, properties) || simplify_will(link, reason))
        return;
    if (refuses_version(reason))
        link->at_once = protocol_version_refused(&link->broker->version, uv_now(link->loop));
    link_cause_of_refusal(cause, link->attempt.version, reason, link->config, link->will_topic);
    break_link(link, "%s", cause);
}

static void say_what_does_not_work(struct mqtt_link *link) {
    char *text = broker_limits_describe(&link->limits);
    if (link->attempt.version == MQTT_3_1_1 && link->config->mqtt.version == MQTT_VERSION_AUTO &&
        !link->broker->said_old) {
        link->broker->said_old = true;
        log_warning("%s: the broker knows only MQTT 3.1.1: response topics and user properties do not work",
                    link->name);
    }
    if (text != NULL && !link->broker->said_limits) {
        link->broker->said_limits = true;
        log_warning("%s: the broker has limits%s", link->name, text);
    }
    free(text);
}

// Of a connection for a purpose that is soon reached, whoever made it says what matters.
static bool is_told(const struct mqtt_link *link) {
    return link->handlers->purpose == NULL || link->handlers->stays;
}

static void become_up(struct mqtt_link *link) {
    link->state = UP;
    *link->said = '\0';
    backoff_up(&link->backoff, uv_now(link->loop));
    broker_route_worked(&link->route);
    // It has no more to say than what the calls return, and would format a line for each packet.
    mosquitto_log_callback_set(link->client, NULL);
    uv_timer_stop(&link->timer);
    log_at(is_told(link) ? LOG_INFO : LOG_DEBUG, "%s: connected", link->name);
    asking_again_begin(&link->hearing_again);
    if (link->limits.wildcards)
        hearing_begin(link->hearing, link->resumed);
    link->handlers->up(link->context);
}

static void on_connect(struct mosquitto *client, void *context, int reason, int flags,
                       const mosquitto_property *properties) {
    struct mqtt_link *link = context;
    if (reason != 0) {
        take_refusal(link, reason, properties);
        return;
    }
    link->explained = true;
    link->resumed = (flags & CONNACK_SESSION_PRESENT) != 0;
    if (protocol_version_accepted(&link->broker->version)) {
        link->at_once = true;
        break_link(link, "it knows MQTT 3.1.1: looking once more whether it knows 5");
        return;
    }
    link->limits = broker_limits_read(properties);
    say_what_does_not_work(link);
    link->state = SUBSCRIBING;
    link->accepted = uv_now(link->loop);
    wait_for_subscriptions(link);
    link->handlers->connected(link->context);
    subscriber_begin(link->subscriber, client, link->attempt.version,
                     &(struct subscriber_session){link->limits.wildcards, link->resumed});
    if (subscriber_is_answered(link->subscriber))
        become_up(link); // there is nothing to wait for
    end_packet(link);
}

static void on_subscribe(struct mosquitto *client, void *context, int mid, int count, const int *granted,
                         const mosquitto_property *properties) {
    struct mqtt_link *link = context;
    subscriber_answer(link->subscriber, mid, count, granted);
    hearing_answer(link->hearing, mid, (size_t)count, granted);
    if (link->state == SUBSCRIBING && subscriber_is_answered(link->subscriber))
        become_up(link);
}

static void on_unsubscribe(struct mosquitto *client, void *context, int mid,
                           const mosquitto_property *properties) {
    struct mqtt_link *link = context;
    hearing_answer(link->hearing, mid, 0, NULL);
}

static bool hear(void *context, char *const *filters, size_t count, int *mid) {
    struct mqtt_link *link = context;
    const int options = MQTT_SUB_OPT_NO_LOCAL | MQTT_SUB_OPT_SEND_RETAIN_NEVER;
    note_result(link, mosquitto_subscribe_multiple(link->client, mid, (int)count, filters, 0,
                                                   link->attempt.version == MQTT_5 ? options : 0, NULL));
    return !link->broken;
}

static bool hear_no_more(void *context, char *const *filters, size_t count, int *mid) {
    struct mqtt_link *link = context;
    note_result(link, mosquitto_unsubscribe_multiple(link->client, mid, (int)count, filters, NULL));
    return !link->broken;
}

static void hear_again(void *context) {
    struct mqtt_link *link = context;
    hearing_ask_again(link->hearing);
}

static const char *kind_of_user(const struct mqtt_link *link) {
    return link->config->mqtt.username != NULL ? "user" : "client";
}

static const char *name_of_user(const struct mqtt_link *link) {
    const struct config *config = link->config;
    return config->mqtt.username != NULL ? config->mqtt.username : config->mqtt.client_id;
}

static void log_refused(const struct mqtt_link *link, const char *filter, int reason, enum again again) {
    const char *why = mosquitto_reason_string(reason);
    if (again == AGAIN_NEVER)
        log_error("%s: subscription to %s rejected: %s", link->name, filter, why);
    else if (again == AGAIN_SOON && link->attempt.version == MQTT_5)
        log_warning("%s: subscription to %s rejected for now: %s; retrying", link->name, filter, why);
    else
        log_error(
            "%s: subscription to %s rejected: %s: the broker's access list must let the %s '%s' read it%s",
            link->name, filter, why, kind_of_user(link), name_of_user(link),
            again == AGAIN_SLOWLY ? "; asking again every 30 s" : "");
}

// Of the first one: there may be thousands like it.
static bool hear_later(void *context, const char *filter, int reason) {
    struct mqtt_link *link = context;
    enum again again = asking_again_note(&link->hearing_again, reason);
    if (!link->hearing_said && link->handlers->purpose == NULL)
        log_refused(link, filter, reason, again);
    link->hearing_said = true;
    return again != AGAIN_NEVER;
}

static void on_answered(void *context, const struct mqtt_subscription *subscription, int reason,
                        enum again again, bool said) {
    struct mqtt_link *link = context;
    bool granted = reason < 0x80, said_here = is_told(link);
    if (!granted && !said && said_here)
        log_refused(link, subscription->filter, reason, again);
    else if (granted && said && said_here)
        log_info("%s: subscription to %s accepted", link->name, subscription->filter);
    if (link->handlers->granted != NULL)
        link->handlers->granted(link->context, subscription, granted);
}

static void on_result(void *context, int result) {
    note_result(context, result);
}

static void take_complaint(struct mqtt_link *link, int reason) {
    pace_complaint(&link->pace, uv_now(link->loop));
    log_warning("%s: %s: from now on at most %.0f publishes per second, and slowly more", link->name,
                mosquitto_reason_string(reason), link->pace.rate);
}

// Whether the connection may have ended because of what we published. A close without a word may be that.
static bool may_lie_in_a_message(int reason) {
    switch (reason) {
    case MOSQ_ERR_KEEPALIVE:
    case MQTT_RC_SERVER_BUSY:
    case MQTT_RC_SERVER_SHUTTING_DOWN:
    case MQTT_RC_KEEP_ALIVE_TIMEOUT:
    case MQTT_RC_SESSION_TAKEN_OVER:
    case MQTT_RC_MESSAGE_RATE_TOO_HIGH:
    case MQTT_RC_QUOTA_EXCEEDED:
    case MQTT_RC_ADMINISTRATIVE_ACTION:
    case MQTT_RC_USE_ANOTHER_SERVER:
    case MQTT_RC_SERVER_MOVED:
    case MQTT_RC_CONNECTION_RATE_EXCEEDED:
    case MQTT_RC_MAXIMUM_CONNECT_TIME:
        return false;
    default:
        return true;
    }
}

static void on_disconnect(struct mosquitto *client, void *context, int reason,
                          const mosquitto_property *properties) {
    struct mqtt_link *link = context;
    char cause[CAUSE_MAX];
    link->by_us = link->by_us || !may_lie_in_a_message(reason);
    if (reason >= 0x80 && !follow_reference(link, reason, properties)) {
        if (reason == MQTT_RC_MESSAGE_RATE_TOO_HIGH || reason == MQTT_RC_QUOTA_EXCEEDED)
            take_complaint(link, reason);
        if (reason == MQTT_RC_SESSION_TAKEN_OVER)
            backoff_contested(&link->backoff);
        link_cause_of_goodbye(cause, reason, link->config);
        break_link(link, "%s", cause);
    }
    note_result(link, MOSQ_ERR_CONN_LOST);
}

static void on_publish(struct mosquitto *client, void *context, int mid, int reason,
                       const mosquitto_property *properties) {
    struct mqtt_link *link = context;
    if (is_too_early(link, mid))
        return;
    enum mqtt_answer answer = packet_answer(reason);
    if (answer == MQTT_NEVER_TAKEN)
        backoff_got_on(&link->backoff);
    link->handlers->published(link->context, mid, answer, mosquitto_reason_string(reason));
    end_packet(link);
}

static void on_message(struct mosquitto *client, void *context, const struct mosquitto_message *message,
                       const mosquitto_property *properties) {
    struct mqtt_link *link = context;
    link->numbered += message->mid != 0;
    if (may_come_before_answers(link, message))
        wait_for_subscriptions(link);
    if (subscriber_ignores(link->subscriber, message->topic, message->retain))
        return;
    struct packet_extras extras = packet_read_extras(properties);
    link->handlers->received(link->context,
                             &(struct mqtt_received){.topic = message->topic,
                                                     .payload = message->payload,
                                                     .length = (size_t)message->payloadlen,
                                                     .retain = message->retain,
                                                     .mid = message->mid,
                                                     .nth = link->numbered,
                                                     .instance = extras.instance,
                                                     .measured = extras.measured,
                                                     .response_topic = extras.response_topic,
                                                     .correlation = extras.correlation,
                                                     .correlation_length = extras.correlation_length});
    packet_free_extras(&extras);
    end_packet(link);
}

// What the library has to say of faults, such as why TLS failed. Also called on a thread of the pool.
static void on_log(struct mosquitto *client, void *context, int level, const char *text) {
    struct mqtt_link *link = context;
    if (level != MOSQ_LOG_ERR && level != MOSQ_LOG_WARNING)
        return;
    link->speaks_plain = link->speaks_plain || link_cause_is_plain(text);
    link->tls_said = link->tls_said || !link_cause_is_close(text);
    log_warning("broker: libmosquitto: %s", text);
}

// --- connecting ---

static void set_callbacks(struct mqtt_link *link) {
    mosquitto_log_callback_set(link->client, on_log);
    mosquitto_connect_v5_callback_set(link->client, on_connect);
    mosquitto_disconnect_v5_callback_set(link->client, on_disconnect);
    mosquitto_subscribe_v5_callback_set(link->client, on_subscribe);
    mosquitto_unsubscribe_v5_callback_set(link->client, on_unsubscribe);
    mosquitto_publish_v5_callback_set(link->client, on_publish);
    mosquitto_message_v5_callback_set(link->client, on_message);
}

// On a thread of the pool.
static void connect_blocking(uv_work_t *work) {
    struct mqtt_link *link = work->data;
    link->connect_result = link_client_connect(link->client, &link->attempt, link->why);
}

static void on_connected(uv_work_t *work, int status) {
    struct mqtt_link *link = work->data;
    if (link->state == STOPPED) {
        drop_client(link);
        return;
    }
    note_result(link, link->connect_result);
    if (link->broken) {
        tear_down(link);
        return;
    }
    link->state = WAITING_CONNACK;
    uv_timer_start(&link->timer, on_connack_timeout, CONNACK_TIMEOUT, 0);
    uv_timer_start(&link->misc, on_misc, MISC_INTERVAL, MISC_INTERVAL);
}

static void set_name(struct mqtt_link *link) {
    const char *purpose = link->handlers->purpose;
    const struct broker_address *address = &link->attempt.address;
    free(link->name);
    link->name = text_format("broker %s:%d%s%s", address->host, address->port, purpose != NULL ? ", " : "",
                             purpose != NULL ? purpose : "");
}

static void choose_broker(struct mqtt_link *link) {
    struct broker *broker = link->broker = broker_route_next(&link->route);
    free(link->attempt.address.host);
    link->attempt =
        (struct link_attempt){.config = link->config,
                              .address = broker_address_copy(&broker->address),
                              .version = protocol_version_next(&broker->version, uv_now(link->loop)),
                              .session = link->session,
                              .will_topic = link->will_topic,
                              .will_payload = link->will_payload,
                              .will_retained = !broker->will_unretained,
                              .will_qos = broker->will_at_qos_0 ? 0 : 1,
                              .probe = broker_route_has_others(&link->route),
                              .context = link};
    if (protocol_version_is_trial(&broker->version))
        link->attempt.will_topic = NULL; // the connection ends at once
    set_name(link);
}

static void attempt(struct mqtt_link *link) {
    int result;
    *link->why = '\0';
    link->explained = link->at_once = link->speaks_plain = link->tls_said = false;
    link->rival_said = link->sent_away = false;
    link->limits = broker_limits_none();
    choose_broker(link);
    link->client = link_client_new(&link->attempt, &result);
    set_callbacks(link);
    link->state = CONNECTING;
    if (result != MOSQ_ERR_SUCCESS) {
        note_result(link, result);
        tear_down(link);
        return;
    }
    link->work.data = link;
    uv_queue_work(link->loop, &link->work, connect_blocking, on_connected);
}

// --- carrying messages ---

static bool carrier_is_up(void *context) {
    return mqtt_link_is_up(context);
}

static bool carrier_is_alive(void *context) {
    const struct mqtt_link *link = context;
    struct pollfd look = {.fd = link->polled, .events = POLLRDHUP};
    return mqtt_link_is_up(link) && poll(&look, 1, 0) == 0;
}

static unsigned carrier_window(void *context) {
    const struct mqtt_link *link = context;
    unsigned ours = (unsigned)link->config->mqtt.inflight, theirs = mqtt_link_receive_maximum(link);
    return ours < theirs ? ours : theirs;
}

static enum mqtt_publish_result result_of(struct mqtt_link *link, int result) {
    switch (result) {
    case MOSQ_ERR_SUCCESS:
        return MQTT_SENT;
    case MOSQ_ERR_INVAL:
    case MOSQ_ERR_MALFORMED_UTF8:
    case MOSQ_ERR_OVERSIZE_PACKET:
    case MOSQ_ERR_PAYLOAD_SIZE:
    case MOSQ_ERR_NOT_SUPPORTED:
    case MOSQ_ERR_QOS_NOT_SUPPORTED:
    case MOSQ_ERR_RETAIN_NOT_SUPPORTED:
        return MQTT_REFUSED;
    default:
        note_result(link, result);
        return MQTT_NOT_NOW;
    }
}

unsigned mqtt_link_expiry(const struct config *config) {
    unsigned seconds = (unsigned)config->limits.forget_unknown_after;
    return seconds < EXPIRY_MAX ? seconds : EXPIRY_MAX;
}

// What of the message the broker can take.
static struct mqtt_publish fit(const struct mqtt_link *link, const struct mqtt_publish *publish) {
    struct mqtt_publish fitting = *publish;
    if (fitting.qos > link->limits.qos)
        fitting.qos = link->limits.qos;
    if (link->attempt.version == MQTT_3_1_1) {
        fitting.correlation = NULL;
        fitting.response_topic = NULL;
        fitting.measured = 0;
        if (fitting.retain != MQTT_NOT_RETAINED)
            fitting.retain = MQTT_RETAINED;
    }
    if (fitting.retain == MQTT_RETAINED_FOR_A_WHILE)
        fitting.expiry = mqtt_link_expiry(link->config);
    if (!link->limits.retain)
        fitting.retain = MQTT_NOT_RETAINED;
    return fitting;
}

static void on_paced(uv_timer_t *timer) {
    struct mqtt_link *link = timer->data;
    tell_ready(link);
}

// Whether the broker wants us to wait with the next one. ready() then tells when it is over.
static bool must_wait(struct mqtt_link *link) {
    if (pace_allows(&link->pace, uv_now(link->loop)))
        return false;
    if (!uv_is_active((uv_handle_t *)&link->paced))
        uv_timer_start(&link->paced, on_paced, pace_wait(&link->pace), 0);
    return true;
}

static bool is_too_large(const struct mqtt_link *link, const struct mqtt_publish *publish) {
    unsigned most = link->limits.packet_size;
    return most > 0 && publish_size(publish, link->config->mqtt.client_id) > most;
}

static enum mqtt_publish_result send_publish(struct mqtt_link *link, const struct mqtt_publish *publish,
                                             int *mid) {
    const mosquitto_property *properties =
        packet_properties(&link->last, publish, link->config->mqtt.client_id);
    int result =
        mosquitto_publish_v5(link->client, mid, publish->topic, (int)publish->length, publish->payload,
                             publish->qos, publish->retain != MQTT_NOT_RETAINED, properties);
    if (result == MOSQ_ERR_SUCCESS)
        pace_sent(&link->pace, uv_now(link->loop));
    return result_of(link, result);
}

static enum mqtt_publish_result publish(void *context, const struct mqtt_publish *publish, int *mid) {
    struct mqtt_link *link = context;
    if (!mqtt_link_is_up(link) || (!publish->urgent && must_wait(link)))
        return MQTT_NOT_NOW;
    struct mqtt_publish fitting = fit(link, publish);
    if (is_too_large(link, &fitting))
        fitting.measured = 0; // rather than the message
    if (is_too_large(link, &fitting))
        return MQTT_REFUSED;
    return send_publish(link, &fitting, mid);
}

static void hold(void *context) {
    struct mqtt_link *link = context;
    link->held++;
}

static void release(void *context) {
    struct mqtt_link *link = context;
    link->held--;
}

static bool is_held(void *context) {
    const struct mqtt_link *link = context;
    return link->held > 0;
}

static void enough(void *context) {
    struct mqtt_link *link = context;
    link->enough = true;
}

static void flush(void *context) {
    struct mqtt_link *link = context;
    if (!mqtt_link_is_up(link) || link->in_library)
        return;
    link->flushing = true;
    write_out(link);
    link->flushing = false;
}

static void got_on(void *context) {
    struct mqtt_link *link = context;
    backoff_got_on(&link->backoff);
}

static void reset(void *context, const char *why) {
    struct mqtt_link *link = context;
    if (!mqtt_link_is_up(link))
        return;
    link->by_us = true;
    break_link(link, "%s", why);
}

// --- what others call ---

static void init_handles(struct mqtt_link *link) {
    uv_timer_init(link->loop, &link->timer);
    uv_timer_init(link->loop, &link->misc);
    uv_timer_init(link->loop, &link->paced);
    uv_prepare_init(link->loop, &link->prepare);
    uv_idle_init(link->loop, &link->rest);
    link->rest.data = link;
    link->timer.data = link->misc.data = link->paced.data = link->prepare.data = link;
}

struct mqtt_link *mqtt_link_new(uv_loop_t *loop, const struct config *config,
                                const struct mqtt_subscription *subscriptions, size_t subscription_count,
                                enum mqtt_session session, const char *will_topic, const char *will_payload,
                                const struct mqtt_link_handlers *handlers, void *context) {
    struct mqtt_link *link = must_have(calloc(1, sizeof *link));
    mosquitto_lib_init();
    *link = (struct mqtt_link){
        .loop = loop,
        .config = config,
        .session = session,
        .will_topic = will_topic != NULL ? must_have(strdup(will_topic)) : NULL,
        .will_payload = will_topic != NULL ? must_have(strdup(will_payload)) : NULL,
        .handlers = handlers,
        .context = context,
        .polled = -1,
        .limits = broker_limits_none(),
        .carrier = {.context = link,
                    .is_up = carrier_is_up,
                    .is_alive = carrier_is_alive,
                    .publish = publish,
                    .window = carrier_window,
                    .got_on = got_on,
                    .reset = reset,
                    .hold = hold,
                    .release = release,
                    .is_held = is_held,
                    .enough = enough,
                    .flush = flush},
    };
    link->subscriber = subscriber_new(loop, subscriptions, subscription_count,
                                      &(struct subscriber_handlers){on_answered, on_result, link});
    link->hearing = hearing_new(&(struct hearing_handlers){link, hear, hear_no_more, hear_later});
    asking_again_init(&link->hearing_again, loop, hear_again, link);
    broker_route_open(&link->route, config);
    init_handles(link);
    return link;
}

void mqtt_link_start(struct mqtt_link *link) {
    uv_prepare_start(&link->prepare, on_prepare);
    attempt(link);
}

bool mqtt_link_is_up(const struct mqtt_link *link) {
    return link->state == UP && !link->broken;
}

bool mqtt_link_is_connecting(const struct mqtt_link *link) {
    return link->client != NULL && link->state == STOPPED;
}

int mqtt_link_version(const struct mqtt_link *link) {
    return link->attempt.version;
}

unsigned mqtt_link_receive_maximum(const struct mqtt_link *link) {
    return link->limits.receive_maximum;
}

bool mqtt_link_is_resumed(const struct mqtt_link *link) {
    return link->resumed;
}

bool mqtt_link_has(const struct mqtt_link *link, const char *filter) {
    return subscriber_has(link->subscriber, filter);
}

bool mqtt_link_retains(const struct mqtt_link *link) {
    return link->limits.retain;
}

void mqtt_link_rival(struct mqtt_link *link) {
    char cause[CAUSE_MAX];
    backoff_contested(&link->backoff);
    if (link->rival_said)
        return;
    link->rival_said = true;
    link_cause_of_rival(cause, link->config);
    log_error("%s: %s", link->name, cause);
}

void mqtt_link_unheard(struct mqtt_link *link, const char *filter) {
    if (link->broker->said_unheard || !mqtt_link_has(link, filter))
        return; // a subscription that was refused was said already
    link->broker->said_unheard = true;
    log_error(
        "%s: the %s '%s' may not read %s: what it publishes there does not come back, and until it does no "
        "command is sent; the broker's access list must let it read that",
        link->name, kind_of_user(link), name_of_user(link), filter);
}

const struct mqtt_carrier *mqtt_link_carrier(const struct mqtt_link *link) {
    return &link->carrier;
}

static bool can_subscribe(const struct mqtt_link *link) {
    return (link->state == SUBSCRIBING || link->state == UP) && !link->broken && link->limits.wildcards;
}

bool mqtt_link_subscribe(struct mqtt_link *link, const char *filter) {
    if (!can_subscribe(link))
        return false;
    subscriber_add(link->subscriber, filter);
    return !link->broken;
}

void mqtt_link_listen(struct mqtt_link *link, const char *filter) {
    hearing_want(link->hearing, filter);
}

void mqtt_link_drop(struct mqtt_link *link, const char *filter) {
    hearing_drop(link->hearing, filter);
}

void mqtt_link_drop_inherited(struct mqtt_link *link, const char *filter) {
    hearing_drop_inherited(link->hearing, filter);
}

void mqtt_link_unsubscribe(struct mqtt_link *link, const char *filter) {
    if (mqtt_link_is_up(link))
        subscriber_remove(link->subscriber, filter);
}

// A socket that is closed with something unread in it is reset, and a broker that sees that before it has
// read the goodbye publishes the Last Will. So what it still says is read until it closes the connection.
// handle is a copy, because the library closes its own.
static void await_close(int handle) {
    struct pollfd poller = {.fd = handle, .events = POLLIN};
    uint64_t end = uv_hrtime() + CLOSE_TIME * (uint64_t)1000000;
    char bytes[4096];
    shutdown(handle, SHUT_WR);
    while (uv_hrtime() < end && poll(&poller, 1, CLOSE_TIME) == 1)
        if (recv(handle, bytes, sizeof bytes, MSG_DONTWAIT) <= 0)
            break;
    close(handle);
}

static void disconnect(struct mqtt_link *link) {
    int handle = link->will_topic != NULL ? fcntl(mosquitto_socket(link->client), F_DUPFD_CLOEXEC, 0) : -1;
    mosquitto_property *properties = NULL;
    if (link->session == MQTT_SESSION_BRIEF && link->attempt.version == MQTT_5)
        mosquitto_property_add_int32(&properties, MQTT_PROP_SESSION_EXPIRY_INTERVAL, 0);
    mosquitto_disconnect_v5(link->client, MQTT_RC_NORMAL_DISCONNECTION, properties);
    mosquitto_property_free_all(&properties);
    mosquitto_loop_write(link->client, READ_PACKETS);
    if (handle >= 0)
        await_close(handle);
}

// With the connection cut instead, the Last Will says that we are gone.
static void say_goodbye(struct mqtt_link *link) {
    if (link->held == 0)
        disconnect(link);
    else
        log_info("%s: closed without a goodbye, which would acknowledge commands that are not on disk",
                 link->name);
}

void mqtt_link_stop(struct mqtt_link *link) {
    bool connecting = link->state == CONNECTING;
    if (link->state >= WAITING_CONNACK && link->state < STOPPED && !link->broken)
        say_goodbye(link);
    link->state = STOPPED;
    if (!connecting)
        drop_client(link); // otherwise on_connected() does
    subscriber_stop(link->subscriber);
    asking_again_close(&link->hearing_again);
    uv_close((uv_handle_t *)&link->timer, NULL);
    uv_close((uv_handle_t *)&link->misc, NULL);
    uv_close((uv_handle_t *)&link->paced, NULL);
    uv_close((uv_handle_t *)&link->prepare, NULL);
    uv_close((uv_handle_t *)&link->rest, NULL);
}

void mqtt_link_free(struct mqtt_link *link) {
    subscriber_free(link->subscriber);
    hearing_free(link->hearing);
    broker_route_close(&link->route);
    packet_forget(&link->last);
    free(link->attempt.address.host);
    free(link->will_topic);
    free(link->will_payload);
    free(link->name);
    free(link);
    mosquitto_lib_cleanup();
}

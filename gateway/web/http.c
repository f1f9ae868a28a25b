// HTTP; see http.h. The only file that knows libmicrohttpd.
#include "gateway/web/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "gateway/base/address.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/web/deadline.h"

#define HEADERS_MAX  16384 // bytes of memory for a connection, in which its headers must fit
#define IDLE_TIME    30    // seconds without a byte until a connection is closed
#define REQUEST_TIME 60    // seconds for a whole request, which may begin late in the idle time
#define FROM_HERE    1100  // connections from one address where only this machine reaches the page
#define FROM_ADDRESS 100   // and where others do: who trickles bytes into many has a small part of them
#define OTHER_FILES  200   // that the program may have open beside connections
#define BACKLOG      128
#define BLOCK        16384 // bytes of a stream that are written at once
#define SMALL        16384 // bytes of an answer that every connection may have

struct http {
    struct MHD_Daemon *daemon;
    uv_loop_t *loop;
    uv_poll_t poll;
    uv_timer_t timer;
    struct http_setting setting;
    struct deadlines *deadlines;
    struct http_request *waiting; // for the handler to be asked again
    struct http_stream *streams;
    size_t stream_count;
    char name[ADDRESS_TEXT_MAX];
    bool soon; // some of these want to be asked in the next turn
    bool stopped;
};

struct http_request {
    struct http *http;
    struct MHD_Connection *connection;
    struct http_view view;
    char *body;
    bool too_large, waits;
    char address[ADDRESS_TEXT_MAX];
    void *note;
    void (*release)(void *note);
    struct http_request *prev, *next;
};

struct http_stream {
    struct http *http;
    struct http_source source;
    struct MHD_Connection *connection;
    bool suspended; // it waits for something to read
    struct http_stream *prev, *next;
};

// A text in memory that goes when it is read.
struct made {
    char *text;
    size_t length;
};

struct http_snapshot {
    struct MHD_Response *response;
};

static size_t snapshots, snapshot_bytes;
static size_t answers; // bytes

// --- requests ---

const struct http_view *http_view(const struct http_request *request) {
    return &request->view;
}

const char *http_query(const struct http_request *request, const char *name) {
    return MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, name);
}

const char *http_header(const struct http_request *request, const char *name) {
    return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

const char *http_cookie(const struct http_request *request, const char *name) {
    return MHD_lookup_connection_value(request->connection, MHD_COOKIE_KIND, name);
}

void *http_note(const struct http_request *request) {
    return request->note;
}

void http_set_note(struct http_request *request, void *note, void (*release)(void *note)) {
    if (request->note != NULL)
        request->release(request->note);
    request->note = note;
    request->release = release;
}

// --- answers ---

static struct made *new_made(char *text, size_t length) {
    struct made *made = must_have(malloc(sizeof *made));
    *made = (struct made){text, length};
    return made;
}

static void free_made(void *context) {
    struct made *made = context;
    answers -= made->length;
    free(made->text);
    free(made);
}

struct http_answer http_text(unsigned status, const char *type, char *text, size_t length) {
    answers += length;
    struct http_answer answer = {.status = status,
                                 .response = must_have(MHD_create_response_from_buffer_with_free_callback_cls(
                                     length, text, free_made, new_made(text, length))),
                                 .length = length};
    http_add(answer, "Content-Type", type);
    return answer;
}

size_t http_answers(void) {
    return answers;
}

struct http_answer http_bytes(unsigned status, const char *type, const void *bytes, size_t length) {
    struct http_answer answer = {.status = status,
                                 .response = must_have(MHD_create_response_from_buffer(
                                     length, (void *)bytes, MHD_RESPMEM_PERSISTENT))};
    http_add(answer, "Content-Type", type);
    return answer;
}

void http_add(struct http_answer answer, const char *header, const char *value) {
    MHD_add_response_header(answer.response, header, value);
}

static void free_snapshot(void *context) {
    struct made *made = context;
    snapshots--;
    snapshot_bytes -= made->length;
    free(made->text);
    free(made);
}

struct http_snapshot *http_snapshot_new(const char *type, char *text, size_t length) {
    struct http_snapshot *snapshot = must_have(malloc(sizeof *snapshot));
    snapshots++;
    snapshot_bytes += length;
    snapshot->response = must_have(MHD_create_response_from_buffer_with_free_callback_cls(
        length, text, free_snapshot, new_made(text, length)));
    http_snapshot_add(snapshot, "Content-Type", type);
    return snapshot;
}

void http_snapshot_add(struct http_snapshot *snapshot, const char *header, const char *value) {
    MHD_add_response_header(snapshot->response, header, value);
}

void http_snapshot_release(struct http_snapshot *snapshot) {
    if (snapshot == NULL)
        return;
    MHD_destroy_response(snapshot->response); // readers keep it
    free(snapshot);
}

struct http_answer http_snapshot_answer(struct http_snapshot *snapshot) {
    return (struct http_answer){.status = 200, .response = snapshot->response, .shared = true};
}

bool http_snapshots_full(void) {
    return snapshots >= HTTP_SNAPSHOTS_MAX || (snapshots >= 2 && snapshot_bytes > HTTP_SNAPSHOTS_BYTES_MAX);
}

// --- streams ---

// Runs when the socket takes something. The library asks again only after the connection was resumed.
static ssize_t read_stream(void *context, uint64_t position, char *buffer, size_t max) {
    struct http_stream *stream = context;
    ssize_t length = stream->http->stopped ? -1 : stream->source.read(stream->source.context, buffer, max);
    if (length < 0)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (length == 0) {
        stream->suspended = true;
        MHD_suspend_connection(stream->connection);
    }
    return length;
}

static void free_stream(void *context) {
    struct http_stream *stream = context;
    stream->source.closed(stream->source.context);
    DL_DELETE(stream->http->streams, stream);
    stream->http->stream_count--;
    free(stream);
}

struct http_stream *http_stream(struct http_request *request, const char *type,
                                const struct http_source *source, struct http_answer *answer) {
    struct http *http = request->http;
    if (http->stream_count >= HTTP_STREAMS_MAX)
        return NULL;
    struct http_stream *stream = must_have(calloc(1, sizeof *stream));
    *stream = (struct http_stream){.http = http, .source = *source, .connection = request->connection};
    DL_APPEND(http->streams, stream);
    http->stream_count++;
    *answer = (struct http_answer){.status = 200,
                                   .response = must_have(MHD_create_response_from_callback(
                                       MHD_SIZE_UNKNOWN, BLOCK, read_stream, stream, free_stream))};
    http_add(*answer, "Content-Type", type);
    return stream;
}

size_t http_streams(const struct http *http) {
    return http->stream_count;
}

// --- the library on the loop ---

static void on_timer(uv_timer_t *timer);

static void run_soon(struct http *http, uint64_t milliseconds) {
    uv_timer_start(&http->timer, on_timer, milliseconds, 0);
}

static void resume_waiting(struct http *http) {
    struct http_request *request, *next;
    DL_FOREACH_SAFE(http->waiting, request, next) {
        DL_DELETE(http->waiting, request);
        request->waits = false;
        MHD_resume_connection(request->connection);
    }
}

static void ask_soon(struct http *http) {
    if (http->soon)
        resume_waiting(http);
    http->soon = false;
}

// The library asks to go on at once while it has something to do, and also for a request that it cannot take any
// further: a chunk whose head is larger than its memory. With a timer of 0 the loop would do nothing else until then.
static void turn(struct http *http) {
    MHD_UNSIGNED_LONG_LONG wait;
    if (http->stopped)
        return;
    ask_soon(http);
    MHD_run(http->daemon);
    if (http->soon)
        run_soon(http, 1);
    else if (MHD_get_timeout(http->daemon, &wait) == MHD_YES)
        run_soon(http, wait > 0 ? wait : 1);
    else
        uv_timer_stop(&http->timer);
}

static void on_timer(uv_timer_t *timer) {
    turn(timer->data);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    turn(poll->data);
}

static void wake_stream(struct http_stream *stream) {
    if (!stream->suspended)
        return;
    stream->suspended = false;
    MHD_resume_connection(stream->connection);
}

void http_stream_wake(struct http_stream *stream) {
    if (!stream->suspended)
        return;
    wake_stream(stream);
    run_soon(stream->http, 0);
}

void http_wake(struct http *http) {
    if (http->waiting == NULL || http->stopped)
        return;
    resume_waiting(http);
    run_soon(http, 0);
}

// --- taking requests ---

static void write_ip(struct http_request *request) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    char *end;
    if (info != NULL)
        address_write(info->client_addr, request->address);
    if ((end = strrchr(request->address, ':')) != NULL)
        *end = '\0';
}

static enum MHD_Result take_last_forwarded(void *last, enum MHD_ValueKind kind, const char *name,
                                           const char *value) {
    if (value != NULL && strcasecmp(name, "X-Forwarded-For") == 0)
        *(const char **)last = value;
    return MHD_YES;
}

// A proxy appends the address that it has seen itself, to the header or as one more of them; what stands before is the
// client's word. What is no address is nobody's.
static void take_forwarded(struct http_request *request) {
    const char *last = NULL;
    unsigned char bytes[sizeof(struct in6_addr)];
    MHD_get_connection_values(request->connection, MHD_HEADER_KIND, take_last_forwarded, &last);
    if (last == NULL)
        return;
    const char *comma = strrchr(last, ',');
    last = comma != NULL ? comma + 1 : last;
    last += strspn(last, " ");
    if (inet_pton(AF_INET, last, bytes) == 1 || inet_pton(AF_INET6, last, bytes) == 1)
        snprintf(request->address, sizeof request->address, "%s", last);
}

static struct http_request *new_request(struct http *http, struct MHD_Connection *connection,
                                        const char *method, const char *path) {
    struct http_request *request = must_have(calloc(1, sizeof *request));
    request->http = http;
    request->connection = connection;
    write_ip(request);
    if (http->setting.behind_proxy)
        take_forwarded(request);
    request->view =
        (struct http_view){.method = method, .path = path, .body = "", .address = request->address};
    return request;
}

static enum MHD_Result send_answer(struct http_request *request, struct http_answer answer) {
    enum MHD_Result result = MHD_queue_response(request->connection, answer.status, answer.response);
    if (!answer.shared)
        MHD_destroy_response(answer.response);
    return result;
}

static struct http_answer plain_refusal(const char *path, unsigned status, const char *why) {
    char *reason = text_format("{\"reason\":\"%s\"}\n", why);
    return http_text(status, "application/json", reason, strlen(reason));
}

// Reads no further: what follows may be part of a body.
static enum MHD_Result refuse(struct http_request *request, unsigned status, const char *why) {
    http_refusal *refusal = request->http->setting.refusal;
    struct http_answer answer = (refusal != NULL ? refusal : plain_refusal)(request->view.path, status, why);
    http_add(answer, "Connection", "close");
    http_add(answer, "X-Content-Type-Options", "nosniff");
    return send_answer(request, answer);
}

static enum MHD_Result refuse_body(struct http_request *request) {
    return refuse(request, 413, "the body is larger than 64 KiB");
}

static bool says_too_much(const struct http_request *request) {
    const char *length = http_header(request, "Content-Length");
    return length != NULL && strtoull(length, NULL, 10) > HTTP_BODY_MAX;
}

// Headers that say which name was asked for and where the body ends: how many there are of each.
struct heads {
    unsigned hosts, lengths, encodings, chunked;
};

static enum MHD_Result count_head(void *context, enum MHD_ValueKind kind, const char *name,
                                  const char *value) {
    struct heads *heads = context;
    heads->hosts += strcasecmp(name, "Host") == 0;
    heads->lengths += strcasecmp(name, "Content-Length") == 0;
    bool encoding = strcasecmp(name, "Transfer-Encoding") == 0;
    heads->encodings += encoding;
    heads->chunked += encoding && value != NULL && strcasecmp(value, "chunked") == 0;
    return MHD_YES;
}

// The library takes one of several lengths, which a proxy in front may read otherwise, and waits for a body in an encoding
// that it does not know. NULL: nothing is wrong.
static const char *contradiction_of(const struct http_request *request, const char *version) {
    struct heads heads = {0};
    MHD_get_connection_values(request->connection, MHD_HEADER_KIND, count_head, &heads);
    if (heads.hosts > 1 || (heads.hosts == 0 && strcmp(version, MHD_HTTP_VERSION_1_1) == 0))
        return "a request has one Host";
    if (heads.lengths + heads.encodings > 1)
        return "a request has one Content-Length, or one Transfer-Encoding";
    return heads.encodings != heads.chunked ? "the only Transfer-Encoding is chunked" : NULL;
}

static enum MHD_Result begin_request(struct http_request *request, const char *version) {
    const char *wrong = contradiction_of(request, version);
    if (wrong != NULL)
        return refuse(request, 400, wrong);
    return says_too_much(request) ? refuse_body(request) : MHD_YES;
}

static void take_body(struct http_request *request, const char *bytes, size_t length) {
    if (request->view.length + length > HTTP_BODY_MAX) {
        request->too_large = true;
        return;
    }
    request->body = must_have(realloc(request->body, request->view.length + length + 1));
    memcpy(request->body + request->view.length, bytes, length);
    request->view.length += length;
    request->body[request->view.length] = '\0';
    request->view.body = request->body;
}

static struct asker *asker_of(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info != NULL ? info->socket_context : NULL;
}

static void on_connection(void *context, struct MHD_Connection *connection, void **place,
                          enum MHD_ConnectionNotificationCode code) {
    struct http *http = context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        *place = asker_new(http->deadlines, info->connect_fd);
    } else if (*place != NULL) {
        asker_gone(*place);
        *place = NULL;
    }
}

// Whoever reads slowly makes it stay.
static bool is_too_much(struct http_answer answer) {
    return answer.length > SMALL && answers > HTTP_ANSWERS_MAX;
}

static enum MHD_Result ask_handler(struct http_request *request) {
    struct http *http = request->http;
    struct http_answer answer = http->setting.handler(http->setting.context, request);
    if (is_too_much(answer)) {
        MHD_destroy_response(answer.response);
        return refuse(request, 503, "too many are reading their answers slowly; try again");
    }
    if (answer.status != 0)
        return send_answer(request, answer);
    http->soon = http->soon || answer.soon;
    request->waits = true;
    DL_APPEND(http->waiting, request);
    MHD_suspend_connection(request->connection);
    return MHD_YES;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *bytes, size_t *length,
                                  void **place) {
    struct http_request *request = *place;
    struct http *http = context;
    if (http->stopped)
        return MHD_NO;
    if (request == NULL) {
        *place = request = new_request(http, connection, method, path);
        return begin_request(request, version);
    }
    if (*length > 0) {
        take_body(request, bytes, *length);
        *length = 0;
        return MHD_YES;
    }
    asker_is_whole(asker_of(connection));
    return request->too_large ? refuse_body(request) : ask_handler(request);
}

static void on_completed(void *context, struct MHD_Connection *connection, void **place,
                         enum MHD_RequestTerminationCode code) {
    struct http_request *request = *place;
    asker_may_ask(asker_of(connection));
    if (request == NULL)
        return;
    if (request->waits)
        DL_DELETE(request->http->waiting, request);
    http_set_note(request, NULL, NULL);
    free(request->body);
    free(request);
    *place = NULL;
}

// --- the server ---

static void on_library_log(void *context, const char *format, va_list arguments) {
    char line[256];
    vsnprintf(line, sizeof line, format, arguments);
    line[strcspn(line, "\n")] = '\0';
    log_debug("http: %s", line);
}

// The descriptor, or minus the error.
static int listen_at(const struct sockaddr_storage *address) {
    int yes = 1, descriptor = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    socklen_t size =
        address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    if (descriptor < 0)
        return -errno;
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(descriptor, (const struct sockaddr *)address, size) == 0 && listen(descriptor, BACKLOG) == 0)
        return descriptor;
    int error = errno;
    close(descriptor);
    return -error;
}

char *http_try(const char *text, bool *in_use) {
    struct sockaddr_storage address = {0};
    if (!address_parse(text, &address))
        return text_format("\"%s\" is no ADDRESS:PORT", text);
    int descriptor = listen_at(&address);
    *in_use = descriptor == -EADDRINUSE;
    if (descriptor < 0)
        return text_format("cannot listen on %s: %s", text,
                           *in_use ? "the port is in use" : strerror(-descriptor));
    close(descriptor);
    return NULL;
}

// To the library a NUL is the end of a path, before which another one stands. It counts as a character that nothing has.
static size_t unescape(void *context, struct MHD_Connection *connection, char *text) {
    for (char *nul = strstr(text, "%00"); nul != NULL; nul = strstr(nul, "%00"))
        memset(nul, '\x1f', 3);
    return MHD_http_unescape(text);
}

// 0: as many as there are. A proxy has one address for all its clients, and bounds them itself.
static unsigned connections_of_address(const struct http_setting *setting,
                                       const struct sockaddr_storage *address) {
    if (setting->behind_proxy)
        return 0;
    return address_is_loopback(address) ? FROM_HERE : FROM_ADDRESS;
}

static struct MHD_Daemon *start_daemon(struct http *http, int descriptor, unsigned from_address) {
    const struct http_setting *setting = &http->setting;
    const struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, setting->certificate},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, setting->key},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"},
        {MHD_OPTION_END, 0, NULL}};
    const struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    bool secure = setting->certificate != NULL;
    unsigned flags =
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | (secure ? MHD_USE_TLS : 0);
    return MHD_start_daemon(flags, 0, NULL, NULL, on_request, http,           //
                            MHD_OPTION_EXTERNAL_LOGGER, on_library_log, http, //
                            MHD_OPTION_LISTEN_SOCKET, descriptor,             //
                            MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADERS_MAX,
                            MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_CONNECTIONS,
                            MHD_OPTION_PER_IP_CONNECTION_LIMIT, from_address, MHD_OPTION_CONNECTION_TIMEOUT,
                            (unsigned)IDLE_TIME, MHD_OPTION_STRICT_FOR_CLIENT,
                            0,                                                 //
                            MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,   //
                            MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL,      //
                            MHD_OPTION_NOTIFY_CONNECTION, on_connection, http, //
                            MHD_OPTION_ARRAY, secure ? tls : none, MHD_OPTION_END);
}

static void watch_daemon(struct http *http) {
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    uint64_t time = http->setting.request_time;
    http->deadlines = deadlines_new(http->loop, time > 0 ? time : REQUEST_TIME * 1000);
    uv_timer_init(http->loop, &http->timer);
    uv_poll_init(http->loop, &http->poll, info->epoll_fd);
    http->timer.data = http->poll.data = http;
    uv_poll_start(&http->poll, UV_READABLE, on_poll);
}

static void note_name(struct http *http, int descriptor) {
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    if (getsockname(descriptor, (struct sockaddr *)&address, &size) == 0)
        address_write((struct sockaddr *)&address, http->name);
}

// A process that is allowed fewer files than there may be connections asks for more.
static void allow_connections(void) {
    struct rlimit limit;
    rlim_t wanted = HTTP_CONNECTIONS + OTHER_FILES;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    setrlimit(RLIMIT_NOFILE, &limit);
}

struct http *http_new(uv_loop_t *loop, const struct http_setting *setting, char **reason) {
    struct sockaddr_storage address = {0};
    int descriptor = address_parse(setting->address, &address) ? listen_at(&address) : -EINVAL;
    if (descriptor < 0) {
        *reason = text_format("cannot listen on %s: %s", setting->address,
                              descriptor == -EADDRINUSE ? "the port is in use" : strerror(-descriptor));
        return NULL;
    }
    struct http *http = must_have(calloc(1, sizeof *http));
    http->setting = *setting;
    http->loop = loop;
    note_name(http, descriptor);
    http->daemon = start_daemon(http, descriptor, connections_of_address(setting, &address));
    if (http->daemon == NULL) {
        *reason = text_format(
            "cannot serve HTTP on %s%s", http->name,
            setting->certificate != NULL ? ": the certificate and the key do not go together" : "");
        close(descriptor);
        free(http);
        return NULL;
    }
    watch_daemon(http);
    allow_connections();
    return http;
}

const char *http_name(const struct http *http) {
    return http->name;
}

// The library must not be stopped while a connection is suspended.
void http_stop(struct http *http) {
    struct http_stream *stream;
    http->stopped = true;
    DL_FOREACH(http->streams, stream)
    wake_stream(stream);
    resume_waiting(http);
    MHD_run(http->daemon);
    uv_poll_stop(&http->poll);
    uv_close((uv_handle_t *)&http->poll, NULL);
    uv_close((uv_handle_t *)&http->timer, NULL);
    MHD_stop_daemon(http->daemon);
    deadlines_stop(http->deadlines);
}

void http_free(struct http *http) {
    deadlines_free(http->deadlines);
    free(http);
}

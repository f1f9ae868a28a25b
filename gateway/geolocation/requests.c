// HTTP requests; see requests.h.
#include "gateway/geolocation/requests.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"

#define NAME_HOLDS 60000 // milliseconds until a name is resolved again

struct request {
    struct requests *requests;
    CURL *easy;
    struct curl_slist *headers, *resolved;
    char *url, *body;
    uint64_t deadline; // by uv_now()
    bool started, ended;
    bool too_long;
    char *answer;
    size_t length;
    requests_done_fn *done;
    void *context;
    struct request *prev, *next;
};

// A socket of libcurl's that the loop watches.
struct watched {
    uv_poll_t poll;
    struct requests *requests;
    curl_socket_t socket;
    struct watched *prev, *next;
};

// Where the service is.
struct name {
    uv_getaddrinfo_t work;
    char *host, *port; // that are known, or looked for; NULL at first
    bool is_address;   // there is nothing to look for
    bool looking;
    char *addresses; // "HOST:PORT:ADDRESS,ADDRESS" as libcurl takes it, or NULL
    const char *fault;
    uint64_t known_at; // by uv_now()
};

struct requests {
    uv_loop_t *loop;
    CURLM *multi;
    uv_timer_t timer;    // libcurl's
    uv_timer_t patience; // with a name that is looked for
    struct name name;
    struct watched *watched;
    struct request *list;
    size_t count;
    bool stopped;
};

// --- ending one ---

static void free_request(struct request *request) {
    struct requests *requests = request->requests;
    if (request->started)
        curl_multi_remove_handle(requests->multi, request->easy);
    curl_easy_cleanup(request->easy);
    curl_slist_free_all(request->headers);
    curl_slist_free_all(request->resolved);
    DL_DELETE(requests->list, request);
    requests->count--;
    free(request->url);
    free(request->body);
    free(request->answer);
    free(request);
}

static void end(struct request *request, const struct requests_result *result) {
    request->ended = true; // who is told may make others
    request->done(request->context, result);
    free_request(request);
}

static void fail(struct request *request, const char *error) {
    end(request, &(struct requests_result){.error = error});
}

static const char *error_of(const struct request *request, CURLcode code) {
    if (request->too_long)
        return "its answer is longer than 64 KiB";
    return code == CURLE_OPERATION_TIMEDOUT ? "it does not answer in time" : curl_easy_strerror(code);
}

static void take_answer(struct request *request, CURLcode code) {
    struct requests_result result = {.body = request->answer != NULL ? request->answer : "",
                                     .length = request->length};
    curl_off_t seconds = 0;
    if (code != CURLE_OK) {
        fail(request, error_of(request, code));
        return;
    }
    curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &result.status);
    curl_easy_getinfo(request->easy, CURLINFO_RETRY_AFTER, &seconds);
    result.retry_after = seconds > 0 && seconds < 86400 ? (uint64_t)seconds * 1000 : 0;
    end(request, &result);
}

static void take_answers(struct requests *requests) {
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(requests->multi, &left)) != NULL) {
        struct request *request = NULL;
        CURLcode code = message->data.result; // the message goes with its request
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&request);
        if (message->msg == CURLMSG_DONE)
            take_answer(request, code);
    }
}

// --- libcurl on the loop ---

static void act(struct requests *requests, curl_socket_t socket, int events) {
    int running;
    curl_multi_socket_action(requests->multi, socket, events, &running);
    take_answers(requests);
}

static void on_timer(uv_timer_t *timer) {
    act(timer->data, CURL_SOCKET_TIMEOUT, 0);
}

// May not act at once: libcurl is in the middle of something.
static int on_timer_wanted(CURLM *multi, long timeout, void *context) {
    struct requests *requests = context;
    if (timeout < 0 || requests->stopped)
        uv_timer_stop(&requests->timer);
    else
        uv_timer_start(&requests->timer, on_timer, (uint64_t)timeout, 0);
    return 0;
}

static void on_ready(uv_poll_t *poll, int status, int events) {
    const struct watched *watched = poll->data;
    int flags = status < 0 ? CURL_CSELECT_ERR : 0;
    flags |= (events & UV_READABLE) != 0 ? CURL_CSELECT_IN : 0;
    flags |= (events & UV_WRITABLE) != 0 ? CURL_CSELECT_OUT : 0;
    act(watched->requests, watched->socket, flags);
}

static void free_watched(uv_handle_t *handle) {
    free(handle->data);
}

static void watch_no_more(struct watched *watched) {
    DL_DELETE(watched->requests->watched, watched);
    uv_poll_stop(&watched->poll);
    uv_close((uv_handle_t *)&watched->poll, free_watched);
}

// NULL when the system does not let it be watched.
static struct watched *watch(struct requests *requests, curl_socket_t socket) {
    struct watched *watched = must_have(calloc(1, sizeof *watched));
    watched->requests = requests;
    watched->socket = socket;
    watched->poll.data = watched;
    if (uv_poll_init_socket(requests->loop, &watched->poll, socket) != 0) {
        free(watched);
        return NULL;
    }
    DL_APPEND(requests->watched, watched);
    curl_multi_assign(requests->multi, socket, watched);
    return watched;
}

static int on_socket(CURL *easy, curl_socket_t socket, int wanted, void *context, void *assigned) {
    struct requests *requests = context;
    struct watched *watched = assigned;
    int events = (wanted & CURL_POLL_IN) != 0 ? UV_READABLE : 0;
    events |= (wanted & CURL_POLL_OUT) != 0 ? UV_WRITABLE : 0;
    if (wanted == CURL_POLL_REMOVE) {
        if (watched != NULL)
            watch_no_more(watched);
        curl_multi_assign(requests->multi, socket, NULL);
        return 0;
    }
    if (watched == NULL)
        watched = watch(requests, socket);
    return watched != NULL && uv_poll_start(&watched->poll, events, on_ready) == 0 ? 0 : -1;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *context) {
    struct request *request = context;
    size_t length = size * count;
    request->too_long = request->length + length > REQUESTS_ANSWER_MAX;
    if (request->too_long)
        return 0;
    request->answer = must_have(realloc(request->answer, request->length + length + 1));
    memcpy(request->answer + request->length, bytes, length);
    request->length += length;
    return length;
}

// --- starting one ---

static void set_options(struct request *request, long timeout) {
    CURL *easy = request->easy;
    curl_easy_setopt(easy, CURLOPT_URL, request->url);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(easy, CURLOPT_PROXY, ""); // its name would be resolved here
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, request->headers);
    curl_easy_setopt(easy, CURLOPT_RESOLVE, request->resolved);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "trackbus/" TRACKBUS_VERSION);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, request);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, request);
}

static void start(struct request *request) {
    struct requests *requests = request->requests;
    uint64_t now = uv_now(requests->loop);
    if (requests->name.addresses != NULL)
        request->resolved = curl_slist_append(NULL, requests->name.addresses);
    set_options(request, request->deadline > now ? (long)(request->deadline - now) : 1);
    request->started = curl_multi_add_handle(requests->multi, request->easy) == CURLM_OK;
}

// --- names ---

static void wait_for_name(struct requests *requests);

// Of those that have not begun the one with the first deadline, or NULL.
static struct request *first_waiting(const struct requests *requests) {
    struct request *request, *first = NULL;
    DL_FOREACH(requests->list, request) {
        if (!request->started && !request->ended && (first == NULL || request->deadline < first->deadline))
            first = request;
    }
    return first;
}

static void on_patience(uv_timer_t *timer) {
    struct requests *requests = timer->data;
    struct request *request = first_waiting(requests);
    if (request != NULL && request->deadline <= uv_now(requests->loop))
        fail(request, "its name is not resolved in time");
    wait_for_name(requests);
}

static void wait_for_name(struct requests *requests) {
    const struct request *request = first_waiting(requests);
    uint64_t now = uv_now(requests->loop);
    if (request != NULL && !requests->stopped)
        uv_timer_start(&requests->patience, on_patience,
                       request->deadline > now ? request->deadline - now : 0, 0);
}

static char *list_addresses(const struct name *name, const struct addrinfo *found) {
    char *list = text_format("%s:%s:", name->host, name->port), *longer, text[64];
    size_t count = 0;
    for (const struct addrinfo *one = found; one != NULL && count < 8; one = one->ai_next) {
        if (uv_ip_name(one->ai_addr, text, sizeof text) != 0)
            continue;
        bool six = one->ai_family == AF_INET6;
        longer = text_format("%s%s%s%s%s", list, count > 0 ? "," : "", six ? "[" : "", text, six ? "]" : "");
        free(list);
        list = longer;
        count++;
    }
    if (count == 0) {
        free(list);
        list = NULL;
    }
    return list;
}

// All that wait for the name begin, or have failed.
static void go_on(struct requests *requests) {
    struct request *request;
    while ((request = first_waiting(requests)) != NULL) {
        if (requests->name.addresses != NULL)
            start(request);
        if (!request->started)
            fail(request,
                 requests->name.addresses == NULL ? requests->name.fault : "libcurl does not take it");
    }
    uv_timer_stop(&requests->patience);
}

static void on_resolved(uv_getaddrinfo_t *work, int status, struct addrinfo *found) {
    struct requests *requests = work->data;
    struct name *name = &requests->name;
    char *addresses = status == 0 && !requests->stopped ? list_addresses(name, found) : NULL;
    uv_freeaddrinfo(found);
    name->looking = false;
    name->fault = status != 0 ? uv_strerror(status) : "its name has no address";
    if (addresses != NULL) { // otherwise what was known before may still hold
        free(name->addresses);
        name->addresses = addresses;
        name->known_at = uv_now(requests->loop);
    }
    if (!requests->stopped)
        go_on(requests);
}

static bool is_known(const struct name *name) {
    return name->is_address || name->addresses != NULL;
}

static bool must_look(const struct requests *requests) {
    const struct name *name = &requests->name;
    return !name->is_address && !name->looking &&
           (name->addresses == NULL || uv_now(requests->loop) - name->known_at > NAME_HOLDS);
}

static void look_for_name(struct requests *requests) {
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct name *name = &requests->name;
    name->work.data = requests;
    name->looking =
        uv_getaddrinfo(requests->loop, &name->work, on_resolved, name->host, name->port, &hints) == 0;
    name->fault = "its name cannot be looked for";
}

static char *part_of(CURLU *url, CURLUPart part) {
    char *text = NULL, *copy;
    if (curl_url_get(url, part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK)
        return NULL;
    copy = must_have(strdup(text));
    curl_free(text);
    return copy;
}

// Of the brackets of an address of IPv6 the resolver knows nothing.
static char *without_brackets(char *host) {
    size_t length = strlen(host);
    if (*host == '[' && host[length - 1] == ']') {
        memmove(host, host + 1, length - 2);
        host[length - 2] = '\0';
    }
    return host;
}

static bool is_address(const char *host) {
    unsigned char bytes[16];
    return uv_inet_pton(AF_INET, host, bytes) == 0 || uv_inet_pton(AF_INET6, host, bytes) == 0;
}

static bool same_name(const struct name *name, const char *host, const char *port) {
    return name->host != NULL && strcmp(name->host, host) == 0 && strcmp(name->port, port) == 0;
}

// While the name of before is still looked for, it cannot be another: then the request has failed.
static bool take_name(struct requests *requests, CURLU *url) {
    struct name *name = &requests->name;
    char *host = without_brackets(part_of(url, CURLUPART_HOST)), *port = part_of(url, CURLUPART_PORT);
    bool same = same_name(name, host, port), taken = same || !name->looking;
    if (!same && taken) {
        free(name->host);
        free(name->port);
        free(name->addresses);
        *name = (struct name){.host = host, .port = port, .is_address = is_address(host)};
        return true;
    }
    free(host);
    free(port);
    return taken;
}

// --- what others call ---

static CURLU *parse(const char *text) {
    CURLU *url = must_have(curl_url());
    char *scheme = NULL, *host = NULL;
    bool good = curl_url_set(url, CURLUPART_URL, text, 0) == CURLUE_OK &&
                curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
                curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
                (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0) && *host != '\0';
    curl_free(scheme);
    curl_free(host);
    if (good)
        return url;
    curl_url_cleanup(url);
    return NULL;
}

bool requests_takes(const char *url) {
    CURLU *parsed = parse(url);
    curl_url_cleanup(parsed);
    return parsed != NULL;
}

static char *url_with_key(CURLU *url, const char *key) {
    char *whole = NULL, *query = key != NULL ? text_format("key=%s", key) : NULL;
    if (query != NULL)
        curl_url_set(url, CURLUPART_QUERY, query, CURLU_APPENDQUERY | CURLU_URLENCODE);
    free(query);
    curl_url_get(url, CURLUPART_URL, &whole, 0);
    char *copy = must_have(strdup(whole != NULL ? whole : ""));
    curl_free(whole);
    return copy;
}

static struct request *make_request(struct requests *requests, CURLU *url, const char *key, const char *body,
                                    unsigned timeout) {
    struct request *request = must_have(calloc(1, sizeof *request));
    request->requests = requests;
    request->easy = must_have(curl_easy_init());
    request->url = url_with_key(url, key);
    request->body = must_have(strdup(body));
    request->headers = curl_slist_append(NULL, "Content-Type: application/json");
    request->headers = curl_slist_append(request->headers, "Expect:");
    request->deadline = uv_now(requests->loop) + timeout;
    DL_APPEND(requests->list, request);
    requests->count++;
    return request;
}

void requests_post(struct requests *requests, const char *url, const char *key, const char *body,
                   unsigned timeout, requests_done_fn *done, void *context) {
    CURLU *parsed = must_have(parse(url));
    struct request *request = make_request(requests, parsed, key, body, timeout);
    request->done = done;
    request->context = context;
    bool named = take_name(requests, parsed);
    curl_url_cleanup(parsed);
    if (!named)
        request->deadline = uv_now(requests->loop);
    if (named && must_look(requests))
        look_for_name(requests);
    if (named && is_known(&requests->name))
        start(request);
    if (!request->started)
        wait_for_name(requests); // which fails it when nothing else does
}

size_t requests_count(const struct requests *requests) {
    return requests->count;
}

bool requests_resolve(const struct requests *requests) {
    return requests->name.looking;
}

struct requests *requests_new(uv_loop_t *loop) {
    struct requests *requests = must_have(calloc(1, sizeof *requests));
    curl_global_init(CURL_GLOBAL_DEFAULT);
    requests->loop = loop;
    requests->multi = must_have(curl_multi_init());
    uv_timer_init(loop, &requests->timer);
    uv_timer_init(loop, &requests->patience);
    requests->timer.data = requests->patience.data = requests;
    curl_multi_setopt(requests->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(requests->multi, CURLMOPT_SOCKETDATA, requests);
    curl_multi_setopt(requests->multi, CURLMOPT_TIMERFUNCTION, on_timer_wanted);
    curl_multi_setopt(requests->multi, CURLMOPT_TIMERDATA, requests);
    curl_multi_setopt(requests->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)REQUESTS_MAX);
    curl_multi_setopt(requests->multi, CURLMOPT_MAXCONNECTS, (long)REQUESTS_MAX);
    return requests;
}

void requests_stop(struct requests *requests) {
    requests->stopped = true;
    while (requests->list != NULL)
        free_request(requests->list);
    curl_multi_cleanup(requests->multi);
    while (requests->watched != NULL)
        watch_no_more(requests->watched);
    uv_close((uv_handle_t *)&requests->timer, NULL);
    uv_close((uv_handle_t *)&requests->patience, NULL);
}

void requests_free(struct requests *requests) {
    free(requests->name.host);
    free(requests->name.port);
    free(requests->name.addresses);
    free(requests);
    curl_global_cleanup();
}

// Who may ask; see guard.h.
#include "gateway/web/guard.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/address.h"
#include "gateway/base/clock.h"
#include "gateway/base/hex.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/web/files.h"
#include "gateway/web/reply.h"

#define COOKIE     "trackbus"
#define FIELD_MAX  256 // bytes of a name or a password
#define ORIGIN_MAX 300

const char *guard_user(const struct guard *guard, const struct http_request *request,
                       enum login_result *result) {
    const char *authorization = http_header(request, "Authorization");
    int64_t now = clock_ticks();
    *result = LOGIN_NONE;
    if (!login_is_needed(guard->login))
        return NULL;
    if (authorization != NULL)
        return login_header(guard->login, http_view(request)->address, authorization, now, result);
    return login_user(guard->login, http_cookie(request, COOKIE), now);
}

uint64_t guard_session(const struct guard *guard, const struct http_request *request) {
    const char *authorization = http_header(request, "Authorization");
    const char *token = authorization != NULL ? authorization : http_cookie(request, COOKIE);
    return login_session(guard->login, token, clock_ticks());
}

// --- other pages ---

static bool is_local_name(const char *host) {
    struct sockaddr_storage address;
    char whole[ORIGIN_MAX];
    size_t length = strcspn(host, ":");
    if (length == 9 && strncmp(host, "localhost", 9) == 0)
        return true;
    snprintf(whole, sizeof whole, "%s%s", host,
             strchr(*host == '[' ? strchrnul(host, ']') : host, ':') != NULL ? "" : ":80");
    return address_parse(whole, &address);
}

// "https://host:port" is of this host.
static bool is_origin_of(const char *origin, const char *host) {
    const char *rest = strstr(origin, "://");
    return rest != NULL && host != NULL && strcmp(rest + 3, host) == 0;
}

bool guard_is_own(const struct guard *guard, const struct http_request *request) {
    const char *host = http_header(request, "Host"), *origin = http_header(request, "Origin");
    const char *site = http_header(request, "Sec-Fetch-Site");
    const char *method = http_view(request)->method;
    bool reads = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    if (!login_is_needed(guard->login) && (host == NULL || !is_local_name(host)))
        return false;
    if (reads)
        return true;
    if (site != NULL && strcmp(site, "same-origin") != 0 && strcmp(site, "none") != 0)
        return false;
    return origin == NULL || is_origin_of(origin, host) ||
           (guard->config->web.behind_proxy &&
            is_origin_of(origin, http_header(request, "X-Forwarded-Host")));
}

// --- logging in ---

// Copies a field of a form, decoded. False when it is not there or too long.
static bool form_field(const char *body, const char *name, char out[FIELD_MAX]) {
    size_t length = strlen(name), used = 0;
    while (strncmp(body, name, length) != 0 || body[length] != '=') {
        if ((body = strchr(body, '&')) == NULL)
            return false;
        body++;
    }
    for (body += length + 1; *body != '\0' && *body != '&'; body++) {
        bool coded = *body == '%' && hex_digit(body[1]) >= 0 && hex_digit(body[2]) >= 0;
        if (used + 1 >= FIELD_MAX)
            return false;
        out[used++] = coded          ? (char)(hex_digit(body[1]) * 16 + hex_digit(body[2]))
                      : *body == '+' ? ' '
                                     : *body;
        body += coded ? 2 : 0;
    }
    out[used] = '\0';
    return true;
}

static bool json_field(const json_t *json, const char *name, char out[FIELD_MAX]) {
    const char *text = json_string_value(json_object_get(json, name));
    return text != NULL && snprintf(out, FIELD_MAX, "%s", text) < FIELD_MAX;
}

static bool is_form(const struct http_request *request) {
    return strcmp(http_view(request)->path, "/login") == 0;
}

static bool read_credentials(const struct http_request *request, char name[FIELD_MAX],
                             char password[FIELD_MAX]) {
    const struct http_view *view = http_view(request);
    if (is_form(request))
        return form_field(view->body, "name", name) && form_field(view->body, "password", password);
    json_t *json = json_loadb(view->body, view->length, 0, NULL);
    bool read = json_field(json, "name", name) && json_field(json, "password", password);
    json_decref(json);
    return read;
}

static void set_cookie(const struct guard *guard, const struct http_request *request,
                       struct http_answer answer, const char *token, int seconds) {
    const char *forwarded = http_header(request, "X-Forwarded-Proto");
    bool secure = guard->config->web.cert_file != NULL ||
                  (guard->config->web.behind_proxy && forwarded != NULL && strcmp(forwarded, "https") == 0);
    char *cookie = text_format(COOKIE "=%s; Path=/; Max-Age=%d; HttpOnly; SameSite=Strict%s", token, seconds,
                               secure ? "; Secure" : "");
    http_add(answer, "Set-Cookie", cookie);
    free(cookie);
}

// The page of that name with text in place of {message}.
static struct http_answer login_page(unsigned status, const char *text) {
    const struct file *file = file_find("/login.html");
    const char *html = (const char *)file->bytes, *mark = strstr(html, "{message}");
    char *page = text_format("%.*s%s%s", (int)(mark - html), html, text, mark + strlen("{message}"));
    struct http_answer answer = http_text(status, file->type, page, strlen(page));
    http_add(answer, "Cache-Control", "no-store");
    return answer;
}

static bool has_token(const struct http_request *request) {
    const char *authorization = http_header(request, "Authorization");
    return authorization != NULL && strncmp(authorization, LOGIN_TOKEN, strlen(LOGIN_TOKEN)) == 0;
}

const char *guard_login_fault(const struct http_request *request, enum login_result result,
                              unsigned *status) {
    *status = result == LOGIN_TOO_OFTEN ? 429 : 401;
    return result == LOGIN_NONE        ? "log in first"
           : result == LOGIN_TOO_OFTEN ? "Too many failed logins. Try again in a minute."
           : has_token(request)        ? "The token is wrong."
                                       : "Name or password is wrong.";
}

static struct http_answer refuse_login(const struct http_request *request, enum login_result result) {
    unsigned status;
    const char *text = guard_login_fault(request, result, &status);
    struct http_answer answer = is_form(request) ? login_page(status, text) : reply_fault(status, "%s", text);
    if (result == LOGIN_TOO_OFTEN)
        http_add(answer, "Retry-After", "60");
    else if (http_header(request, "Authorization") != NULL) // else a browser would ask by a window of its own
        http_add(answer, "WWW-Authenticate", "Basic realm=\"trackbus\"");
    return answer;
}

static struct http_answer welcome(const struct http_request *request, const char *name) {
    if (!is_form(request))
        return reply_json(200, json_pack("{s:s}", "user", name));
    struct http_answer answer = http_bytes(303, "text/plain", "", 0);
    http_add(answer, "Location", "/");
    return answer;
}

struct http_answer guard_log_in(const struct guard *guard, struct http_request *request) {
    char name[FIELD_MAX], password[FIELD_MAX], token[LOGIN_TOKEN_SIZE];
    enum login_result result = LOGIN_WRONG;
    if (!login_is_needed(guard->login))
        return reply_fault(404, "there are no users: web.users_file is not set");
    if (!read_credentials(request, name, password))
        return reply_fault(400, "name or password is missing, or longer than %d bytes", FIELD_MAX - 1);
    result = login_begin(guard->login, http_view(request)->address, name, password, clock_ticks(), token);
    explicit_bzero(password, sizeof password);
    if (result != LOGIN_DONE)
        return refuse_login(request, result);
    log_info("%s logged in from %s", name, http_view(request)->address);
    struct http_answer answer = welcome(request, name);
    set_cookie(guard, request, answer, token, LOGIN_SECONDS);
    return answer;
}

struct http_answer guard_log_out(const struct guard *guard, struct http_request *request) {
    login_end(guard->login, http_cookie(request, COOKIE), clock_ticks());
    struct http_answer answer = reply_json(200, json_pack("{s:n}", "user"));
    set_cookie(guard, request, answer, "", 0);
    return answer;
}

struct http_answer guard_refuse(const struct guard *guard, const struct http_request *request,
                                enum login_result result) {
    const struct http_view *view = http_view(request);
    bool page = strcmp(view->path, "/") == 0 || strcmp(view->path, "/index.html") == 0 ||
                strcmp(view->path, "/login") == 0;
    return result == LOGIN_NONE && page ? login_page(401, "") : refuse_login(request, result);
}

const char *guard_refusal_to_command(const struct guard *guard, const char *user) {
    if (!guard->config->web.commands)
        return "commands, changes of the registry and captures are not allowed here: web.commands is false";
    return user == NULL ? "only a user who is logged in may command, capture and change the registry: "
                          "web.users_file is not set"
                        : NULL;
}

// --- headers ---

// Where the map's tiles come from, as the policy names it; "" for our own address or none.
static void tiles_origin(const char *tiles, char origin[ORIGIN_MAX]) {
    const char *rest = tiles != NULL ? strstr(tiles, "://") : NULL;
    size_t length = rest != NULL ? (size_t)(rest + 3 - tiles) + strcspn(rest + 3, "/?#") : 0;
    const char *shard = tiles != NULL ? strstr(tiles, "{s}.") : NULL;
    *origin = '\0';
    if (length == 0 || length >= ORIGIN_MAX - 1)
        return;
    if (shard != NULL && shard < tiles + length)
        snprintf(origin, ORIGIN_MAX, "%.*s*%.*s", (int)(shard - tiles), tiles,
                 (int)(tiles + length - shard - 3), shard + 3);
    else
        snprintf(origin, ORIGIN_MAX, "%.*s", (int)length, tiles);
    if (strpbrk(origin, " ;,'\"{}\r\n") != NULL)
        *origin = '\0';
}

void guard_add_headers(const struct guard *guard, struct http_answer answer) {
    char origin[ORIGIN_MAX], policy[ORIGIN_MAX + 256];
    tiles_origin(guard->config->web.tiles, origin);
    // The login page alone has a style of its own in a data: address, because nothing else is served before.
    snprintf(policy, sizeof policy,
             "default-src 'none'; script-src 'self'; style-src 'self'%s; img-src 'self' data: %s; "
             "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
             answer.status == 401 || answer.status == 429 ? " data:" : "", origin);
    http_add(answer, "Content-Security-Policy", policy);
    http_add(answer, "X-Content-Type-Options", "nosniff");
    http_add(answer, "X-Frame-Options", "DENY");
    http_add(answer, "Referrer-Policy",
             "strict-origin-when-cross-origin"); // tile servers want to know who asks
    http_add(answer, "Cross-Origin-Resource-Policy", "same-origin");
    http_add(answer, "Cross-Origin-Opener-Policy", "same-origin");
}
